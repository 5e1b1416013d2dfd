"""What a recurrent mixer remembers has one size, whatever has been read: the type of a decoding loop proves it.

A `lax.scan` is typed only if each of its steps takes and gives a state of the same structure, shapes and dtypes; so
one that is typed over 100,000 tokens holds no more after the last of them than before the first.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.mixers import attention
from tests.contracts.sublayers import EMBED, MIXERS, context, inputs

TOKENS = 100_000
RECURRENT = (
    *("gated_delta_net", "gated_linear_attention", "linear_attention", "mamba", "mamba2", "performer", "retention"),
    *("rg_lru", "rwkv4", "rwkv7", "s4d"),
)
EXAMPLES = {name: cfg for name, cfg in MIXERS.items() if name.rsplit("_", 1)[0] in RECURRENT}
CASES = {name: cfg for name, cfg in EXAMPLES.items() if "cache" not in cfg.lacks()}


def state(cfg, length):
    """The shapes of an empty cache for one row of so many tokens."""
    return jax.eval_shape(lambda: cfg.init_cache(1, length, EMBED, jnp.float32))


def decoded(cfg, cache):
    """The shapes of the state after `TOKENS` single tokens; nothing is computed."""
    module, x = cfg.make(), inputs()
    params = unbox(jax.eval_shape(module.init, jax.random.key(0), x, context(x))["params"])

    def decode(params, cache):
        def step(cache, place):
            token = jnp.ones((1, 1, EMBED))
            out = module.apply({"params": params}, token, Context(positions=place[None, None]), cache)
            return out.cache, out.x

        return jax.lax.scan(step, cache, jnp.arange(TOKENS))[0]

    return jax.eval_shape(decode, params, cache)


def test_every_recurrent_mixer_is_here():
    assert {name.rsplit("_", 1)[0] for name in CASES} == set(RECURRENT)


@pytest.mark.parametrize("name", CASES)
def test_the_state_after_100000_tokens_has_the_size_of_the_empty_one(name):
    empty = state(CASES[name], 1)
    assert empty == state(CASES[name], TOKENS) == decoded(CASES[name], empty)
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(empty)) < 1000


def test_attention_s_cache_would_be_told_from_these():
    cfg = attention.Config(num_heads=2, head_dim=4)
    assert state(cfg, 1) != state(cfg, TOKENS)
