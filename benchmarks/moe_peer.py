"""transformers' Mixtral block in PyTorch, forward and backward: the other side of `moe.py`.

Started by it with the peers' Python and the sizes as JSON. For each line it reads it answers the seconds of some runs.
"""

import json
import os
import sys
import time

import torch
import transformers
from transformers.models.mixtral import modeling_mixtral

sizes = json.loads(sys.argv[1])
torch.set_num_threads(os.cpu_count())
torch.manual_seed(0)
config = transformers.MixtralConfig(
    hidden_size=sizes["dim"], intermediate_size=sizes["hidden"], num_local_experts=sizes["experts"],
    num_experts_per_tok=sizes["top_k"], num_attention_heads=4, num_key_value_heads=4,
)  # fmt: skip
config._experts_implementation = sizes["implementation"]
block = modeling_mixtral.MixtralSparseMoeBlock(config)
for weight in block.parameters():
    torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
x = torch.randn(sizes["rows"], sizes["length"], sizes["dim"], requires_grad=True)
dy = torch.randn_like(x)


def run() -> float:
    """Seconds of a forward and a backward pass."""
    start = time.perf_counter()
    out = block(x)
    out = out[0] if isinstance(out, tuple) else out
    out.backward(dy)
    for array in (x, *block.parameters()):
        array.grad = None
    return time.perf_counter() - start


print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
for _ in sys.stdin:
    print(json.dumps([run() for _ in range(sizes["runs"])]), flush=True)
