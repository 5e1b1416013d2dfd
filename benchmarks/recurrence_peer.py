"""Linear-time layers in PyTorch, float32: the other side of `recurrence_scaling.py`.

Started by it with the peers' Python. Reads a line of JSON, `{"form": ..., "length": ..., "width": ..., "heads": ...}`,
and answers the seconds of a forward and a backward pass of one row; with `"decode": true` those in which a model of
`"layers"` such layers and a vocabulary of `"vocab"` writes `"tokens"` tokens. 'mamba', 'mamba2' and 'rwkv4' are
transformers' layers, 'performer' performer-pytorch's causal attention without projections.
"""

import contextlib
import functools
import json
import os
import sys
import time

import torch
import transformers
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2
from transformers.models.rwkv import modeling_rwkv

torch.set_num_threads(os.cpu_count())
torch.manual_seed(0)
MODELS = {
    "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM),
    "mamba2": (transformers.Mamba2Config, transformers.Mamba2ForCausalLM),
    "rwkv4": (transformers.RwkvConfig, transformers.RwkvForCausalLM),
}


def config(form: str, width: int, heads: int, **more):
    """Of a model whose layers have these sizes."""
    sizes = dict(hidden_size=width) | more
    if form == "mamba2":
        sizes |= dict(num_heads=heads, head_dim=2 * width // heads, n_groups=1, state_size=128)
    return MODELS[form][0](**sizes)


def layer(form: str, length: int, width: int, heads: int):
    """(function, arrays) of a row."""
    if form == "performer":
        with contextlib.redirect_stdout(sys.stderr):  # it says there that it has no CUDA code
            from performer_pytorch.performer_pytorch import FastAttention

            attend = FastAttention(width // heads, nb_features=256, causal=True)
        return attend, [torch.randn(1, heads, length, width // heads, requires_grad=True) for _ in range(3)]
    made = config(form, width, heads)
    if form == "rwkv4":
        attention = modeling_rwkv.RwkvSelfAttention(made, layer_id=0)
        module = lambda x: attention(x)[0]
    else:
        kind = modeling_mamba.MambaMixer if form == "mamba" else modeling_mamba2.Mamba2Mixer
        module = kind(made, layer_idx=0)
    return module, [torch.randn(1, length, width, requires_grad=True)]


@functools.cache
def prepared(form: str, length: int, width: int, heads: int):
    """(function, arrays, gradient of the result)."""
    function, arrays = layer(form, length, width, heads)
    return function, arrays, torch.randn_like(arrays[0])


def train(function, arrays, gradient) -> float:
    """Seconds of a forward and a backward pass."""
    start = time.perf_counter()
    function(*arrays).backward(gradient)
    for array in arrays:
        array.grad = None
    return time.perf_counter() - start


@functools.cache
def decoder(form: str, width: int, heads: int, layers: int, vocab: int):
    """A model of so many layers."""
    return MODELS[form][1](config(form, width, heads, num_hidden_layers=layers, vocab_size=vocab)).eval()


@torch.no_grad()
def decode(model, tokens: int) -> float:
    """Seconds in which so many greedy tokens follow a prompt of eight."""
    ids = torch.ones(1, 8, dtype=torch.long)
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, use_cache=True)
    return time.perf_counter() - start


print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("decode"):
        sizes = (asked[name] for name in ("form", "width", "heads", "layers", "vocab"))
        print(json.dumps(decode(decoder(*sizes), asked["tokens"])), flush=True)
    else:
        sizes = (asked[name] for name in ("form", "length", "width", "heads"))
        print(json.dumps(train(*prepared(*sizes))), flush=True)
