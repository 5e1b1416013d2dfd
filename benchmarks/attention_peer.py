"""Attention in PyTorch, forward and backward, float32: the other side of `attention_scaling.py`.

Started by it with the peers' Python. Reads a line of JSON, `{"form": ..., "length": ..., "heads": ..., "head_dim": ...,
"globals": ...}`, and answers the seconds of a run. 'sdpa' is torch's fused attention of all pairs; 'longformer' and
'bigbird' are transformers' self-attention, with projections that only copy, so that the attention itself is timed.
"""

import functools
import json
import os
import sys
import time

import torch
import transformers
from transformers.models.big_bird import modeling_big_bird
from transformers.models.longformer import modeling_longformer

torch.set_num_threads(os.cpu_count())
torch.manual_seed(0)
PROJECTIONS = [f"{name}{kind}" for name in ("query", "key", "value") for kind in ("", "_global")]


class Copy(torch.nn.Module):
    """In place of a projection."""

    def forward(self, x):
        return x.clone()


def longformer(length: int, heads: int, head_dim: int, tokens: int):
    """A window of 512, and so many tokens of the row's beginning that are global, as a function of hidden states."""
    sizes = dict(hidden_size=heads * head_dim, num_attention_heads=heads, attention_window=[512])
    config = transformers.LongformerConfig(**sizes, attention_probs_dropout_prob=0.0)
    module = _without_projections(modeling_longformer.LongformerSelfAttention(config, 0))
    mask = torch.zeros(1, length)
    mask[:, :tokens] = 10000
    given = dict(is_index_masked=mask < 0, is_index_global_attn=mask > 0, is_global_attn=True)
    return functools.partial(module, attention_mask=mask, **given)


def bigbird(length: int, heads: int, head_dim: int):
    """Blocks of 64: three around a token's own, three at random, the first and the last; of hidden states."""
    sizes = dict(hidden_size=heads * head_dim, num_attention_heads=heads, block_size=64, num_random_blocks=3)
    config = transformers.BigBirdConfig(**sizes, max_position_embeddings=length)
    module = _without_projections(modeling_big_bird.BigBirdBlockSparseAttention(config, seed=0))
    masks = modeling_big_bird.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, length), 64)
    blocked, band, queries, keys = masks
    given = dict(band_mask=band, from_mask=queries, to_mask=keys, from_blocked_mask=blocked, to_blocked_mask=blocked)
    return functools.partial(module, **given)


def _without_projections(module):
    for name in PROJECTIONS:
        if hasattr(module, name):
            setattr(module, name, Copy())
    return module.train()


@functools.cache
def prepared(form: str, length: int, heads: int, head_dim: int, tokens: int):
    """(function of its arrays, arrays, gradient of the result)."""
    if form == "sdpa":
        arrays = [torch.randn(1, heads, length, head_dim, requires_grad=True) for _ in range(3)]
        return torch.nn.functional.scaled_dot_product_attention, arrays, torch.randn_like(arrays[0])
    sizes = length, heads, head_dim
    call = longformer(*sizes, tokens) if form == "longformer" else bigbird(*sizes)
    hidden = torch.randn(1, length, heads * head_dim, requires_grad=True)
    return lambda x: call(x)[0], [hidden], torch.randn_like(hidden)


def run(function, arrays, gradient) -> float:
    """Seconds of a forward and a backward pass."""
    start = time.perf_counter()
    function(*arrays).backward(gradient)
    for array in arrays:
        array.grad = None
    return time.perf_counter() - start


print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    sizes = (asked[name] for name in ("form", "length", "heads", "head_dim", "globals"))
    print(json.dumps(run(*prepared(*sizes))), flush=True)
