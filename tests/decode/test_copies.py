"""A step of decoding reads caches and weights where they lie: on CPU, time a token is what reading them once takes."""

import re

import jax
import jax.numpy as jnp
import pytest

from arch import tree
from arch.decode import generate as decoding
from arch.layers import block, stack
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.models import decoder

HEADS, KV_HEADS, WIDTH, EMBED, PROMPT, NEW, LAYERS = 6, 3, 64, 37, 16, 496, 2
CACHE = 4 * KV_HEADS * WIDTH * (PROMPT + NEW)
"""Bytes of one layer's keys, or values."""


@pytest.fixture
def compiled(optimized):
    """The greedy continuation of one prompt by layers of attention."""
    mixer = attention.Config(num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=WIDTH)
    layers = stack.Config(pattern=(block.Config(sublayers=(mixer,)),), repeats=LAYERS)
    model = decoder.Config(vocab_size=11, embed_dim=EMBED, layers=layers).make()
    tokens, valid = jnp.zeros((1, PROMPT), jnp.int32), jnp.ones((1, PROMPT), bool)
    params = jax.eval_shape(lambda: tree.unstack(unbox(model.init(jax.random.key(0), tokens)["params"])))
    greedy = decoding.Config(max_new_tokens=NEW, temperature=0.0)
    return decoding.continued.lower(model, greedy, (), params, tokens, valid, jax.random.key(0)).compile()


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="JAX 0.10 drops optimization barriers before it fuses")
def test_no_cache_is_copied(compiled):
    prefill = 2 * CACHE  # logits of the prompt and the keys in the order of their product
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * LAYERS * CACHE + prefill


def test_no_weight_is_copied(compiled):
    shapes = f"{HEADS * WIDTH},{EMBED}|{WIDTH},{HEADS},{EMBED}|{HEADS},{WIDTH},{EMBED}"
    assert not re.findall(rf"%\S*copy\S* = f32\[(?:{shapes})\].*", compiled.as_text())
