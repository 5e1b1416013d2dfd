"""A cache of the window's size gives the tokens that a cache of all tokens gives, however far a row goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.decode import generate as decoding
from arch.families import mistral
from arch.layers.weight import unbox
from arch.mixers import attention
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


def generated(new, caches, monkeypatch, num_layers=2):
    """(tokens that continue two prompts, the sizes of the caches)."""
    model = mistral.compose(num_layers=num_layers, **SIZES).make()
    boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    params, sizes = random_like(unbox(boxes), scale=1.0), []

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
