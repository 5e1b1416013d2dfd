"""Prompts read in chunks of any size leave the caches from which one pass' logits follow, in bounded memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.decode import generate as decoding
from arch.decode.prefill import prefill
from arch.layers import block, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.models import decoder
from arch.positions import learned
from tests.contracts.sublayers import FFNS, MIXERS, holds, random_like

VOCAB, EMBED, T = 17, 6, 13
LENGTHS = (T, 5, 1)
CACHES = {
    "full": attention.Config(num_heads=4, num_kv_heads=2, head_dim=4),
    "rolling": attention.Config(num_heads=2, head_dim=4, window=4),
    "pattern": MIXERS["attention_6"],
    "latent": MIXERS["latent_attention_0"],
    "mamba": MIXERS["mamba_0"],
    "mamba2": MIXERS["mamba2_0"],
    "rwkv7": MIXERS["rwkv7_0"],
    "griffin": MIXERS["rg_lru_0"],
    "hyena": MIXERS["hyena_0"],
}


def model_of(*mixers, **fields):
    """A decoder of a layer a mixer, and its parameters."""
    layers = stack.Config(pattern=tuple(block.Config(sublayers=(mixer, FFNS["gated_mlp_0"])) for mixer in mixers))
    model = decoder.Config(vocab_size=VOCAB, embed_dim=EMBED, layers=layers, **fields).make()
    made = lambda: tree.unstack(unbox(model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]))
    return model, random_like(jax.eval_shape(made))


def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (len(LENGTHS), T + 1)), jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options={"xla_backend_optimization_level": 0})
def next_logits(model, params, tokens, chunk):
    """[b v] of the token behind each row's first LENGTHS, whose next token the caches then meet."""
    lengths = jnp.asarray(LENGTHS)
    context = Context(positions=positions_of(tokens), valid=positions_of(tokens) < lengths[:, None])
    cache = model.cfg.init_cache(len(tokens), T + 1)
    cache = prefill(model, params, tokens, context, cache, chunk=chunk)
    token = jnp.take_along_axis(tokens, lengths[:, None], axis=1)
    return model.apply({"params": params}, token, Context(positions=lengths[:, None]), cache).x[:, 0]


def by_one_pass(model, params):
    """The same, of a pass without caches."""
    out = model.apply({"params": params}, tokens(), Context(positions=positions_of(tokens()))).x
    return out[np.arange(len(LENGTHS)), np.asarray(LENGTHS)]


FAST = ("full", "rolling", "mamba")
"""The other mixers' caches are held to chunks of 1, 3 and 7 by their contracts (`tests/contracts/test_sequence.py`)."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in CACHES])
def test_logits_behind_chunks_are_those_of_one_pass(name):
    model, params = model_of(CACHES[name])
    expected = by_one_pass(model, params)
    for chunk in (0, 1, 5):
        assert holds(next_logits(model, params, tokens(), chunk), expected), chunk


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [2, 3, 4, 6, 7, 8, 12, 13, 14])
def test_any_chunk_gives_one_pass_through_all_kinds_of_caches(chunk):
    model, params = model_of(*CACHES.values())
    assert holds(next_logits(model, params, tokens(), chunk), by_one_pass(model, params), 1e-4)


@pytest.mark.parametrize("chunk", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_generated_tokens_do_not_depend_on_the_chunk(chunk):
    model, params = model_of(CACHES["rolling"], CACHES["full"], position=learned.Config(length=19))
    prompts, how = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [8]], decoding.Config(max_new_tokens=7, temperature=0.0)
    made = [
        decoding.generate(model, params, prompts, how.replace(prefill_chunk=size), key=jax.random.key(0))
        for size in (0, chunk)
    ]
    assert made[0] == made[1]


def test_padding_beyond_the_known_positions_harms_no_token():
    """A prompt is filled up to 16 tokens, of which only 12 have a position: what stands there is not-a-number."""
    model, params = model_of(CACHES["rolling"], position=learned.Config(length=12))
    prompt, how = [3, 1, 4, 1, 5, 9], decoding.Config(max_new_tokens=1, temperature=0.0)
    logits = model.apply({"params": params}, jnp.asarray([prompt])).x[0, -1]
    assert decoding.generate(model, params, [prompt], how, key=jax.random.key(0)) == [[int(jnp.argmax(logits))]]


@pytest.mark.slow
def test_memory_grows_with_the_chunk_and_the_caches_and_not_with_all_pairs():
    model, params = model_of(CACHES["full"], CACHES["full"])  # of the last layer, prefill needs no attention

    def bytes_of(length, chunk):
        def run(tokens, valid, key):
            how = decoding.Config(max_new_tokens=1, prefill_chunk=chunk)
            return decoding.continued(model, how, (), params, tokens, valid, key)

        given = jnp.zeros((1, length), jnp.int32), jnp.ones((1, length), bool), jax.random.key(0)
        return jax.jit(run).lower(*given).compile().memory_analysis().temp_size_in_bytes

    pairs = 4 * 4 * 2048**2
    assert bytes_of(2048, 0) > pairs
    assert bytes_of(2048, 32) < pairs / 8
    assert bytes_of(4096, 32) < 2.2 * bytes_of(2048, 32)


def test_a_chunk_below_nothing_is_refused():
    with pytest.raises(ValueError, match="prefill_chunk=-1 must be"):
        decoding.Config(prefill_chunk=-1)
