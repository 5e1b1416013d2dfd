"""A cache of the window's size gives the tokens that a cache of all tokens gives, however far a row goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.decode import generate as decoding
from arch.families import mistral
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.ops.sampling import sample
from arch.positions import alibi
from tests.contracts.sublayers import EMBED, ROWS, TOKENS, Case, context, holds, inputs, random_like

WINDOW = 5
SIZES = dict(vocab_size=11, embed_dim=6, num_heads=3, head_dim=4, hidden_dim=7, window=WINDOW)


def with_all(cfg, batch, length):
    """A cache that could hold so many tokens: slots that are not needed change nothing."""
    return cfg.replace(window=0).init_cache(batch, length, EMBED, jnp.float32)


def test_the_cache_has_the_window_s_slots_and_no_more_than_tokens():
    cfg = attention.Config(num_heads=2, head_dim=3, window=WINDOW)
    sizes = [cfg.init_cache(2, length, EMBED, jnp.float32)["key"].shape[2] for length in (3, 5, 100_000)]
    assert sizes == [3, 5, 5]


@pytest.mark.parametrize("chunks", [[1] * TOKENS, [3] * 7, [13, 1, 7], [TOKENS]], ids=len)
def test_a_rolling_cache_is_one_of_all_tokens(chunks):
    cfg = attention.Config(num_heads=4, num_kv_heads=2, head_dim=4, window=WINDOW, sinks=True, position=alibi.Config())
    case = Case(cfg)
    rolled, held = (case.chunks(chunks, cache) for cache in (None, with_all(cfg, ROWS, TOKENS)))
    assert holds(rolled[0], case.full) and holds(held[0], case.full)
    np.testing.assert_array_equal(rolled[1]["length"], [TOKENS] * ROWS)
    assert rolled[1]["key"].shape[2] == WINDOW


def test_rows_of_different_lengths_roll_by_themselves():
    case = Case(attention.Config(num_heads=2, head_dim=4, window=WINDOW))
    cache, begin = case.empty_cache(), np.zeros(ROWS, int)
    for lengths in ([7, 2, 0], [1, 7, 6], [0, 3, 7], [4, 4, 4]):
        chunk = np.zeros((ROWS, 7, EMBED), np.float32)
        for row, length in enumerate(lengths):
            chunk[row, :length] = inputs()[row, begin[row] : begin[row] + length]
        valid = jnp.arange(7) < jnp.asarray(lengths)[:, None]
        out = case(jnp.asarray(chunk), context(jnp.asarray(chunk), begin, valid=valid), cache)
        for row, length in enumerate(lengths):
            expected = case.full[row, begin[row] : begin[row] + length]
            assert not length or holds(out.x[row, :length], expected)
        cache, begin = out.cache, begin + lengths


def model_and_params(num_layers=2):
    model = mistral.compose(num_layers=num_layers, **SIZES).make()
    boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    return model, random_like(unbox(boxes), scale=1.0)


def generated(new, caches, monkeypatch):
    """(tokens that continue two prompts, the sizes of the caches)."""
    (model, params), sizes = model_and_params(), []

    def init_cache(cfg, batch, length, embed_dim, dtype):
        made = caches(cfg, batch, length)
        sizes.append(made["key"].shape[2])
        return made

    monkeypatch.setattr(attention.Config, "init_cache", init_cache)
    decoding.continued.clear_cache()
    cfg = decoding.Config(max_new_tokens=new, temperature=1.0)
    made = decoding.generate(model, params, [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3]], cfg, key=jax.random.key(0))
    return made, sizes


def both(new, monkeypatch):
    """Tokens by a rolling cache and by one of all tokens."""
    original = attention.Config.init_cache
    rolling = lambda cfg, batch, length: original(cfg, batch, length, EMBED, jnp.float32)
    full = lambda cfg, batch, length: original(cfg.replace(window=0), batch, length, EMBED, jnp.float32)
    (short, few), (long, many) = generated(new, rolling, monkeypatch), generated(new, full, monkeypatch)
    assert set(few) == {WINDOW} and min(many) > new
    return short, long


def test_tokens_far_beyond_the_window_are_those_of_a_cache_of_all(monkeypatch):
    short, long = both(40 * WINDOW, monkeypatch)
    assert short == long and len(set(short[0][-4 * WINDOW :])) > 1


@pytest.mark.slow
def test_a_hundred_thousand_tokens_are_those_of_one_pass_with_the_window_and_take_the_memory_of_a_few():
    """The pass holds all tokens, in blocks of the window; from its logits the same draws are made."""
    (model, params), prompt, new, key = model_and_params(), [1, 2, 3, 4, 5, 6, 7], 100_000, jax.random.key(0)
    cfg = decoding.Config(max_new_tokens=new, temperature=1.0)
    [made] = decoding.generate(model, params, [prompt], cfg, key=key)
    tokens = jnp.asarray([prompt + made[:-1]])
    logits = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens).x[0, len(prompt) - 1 :])(
        params, tokens
    )
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(new))
    draws = jax.vmap(lambda row, key: sample(row[None], key, temperature=1.0, top_k=0, top_p=1.0)[0])(logits, keys)
    np.testing.assert_array_equal(draws, made)
    assert len(set(made[-4 * WINDOW :])) > 1
    given = tree.unstack(params), np.asarray([prompt]), np.ones((1, len(prompt)), bool), key
    temporaries = lambda steps: (
        decoding.continued.lower(model, cfg.replace(max_new_tokens=steps), (), *given)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )
    assert temporaries(new) - 4 * new <= temporaries(1000)  # but for the tokens themselves
