"""What is particular to attention: heads that group, caches, norms of heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.layers.contract import Common, Context
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.ops.chunked_attention import CHUNK, MOST_CHUNKS
from arch.positions import alibi, learned, none, relative, rope
from tests.contracts.sublayers import EMBED, ROWS, TOKENS, Case, context, holds, inputs


def test_heads_that_do_not_group_are_refused():
    with pytest.raises(ValueError, match="num_heads=6 must be a multiple of num_kv_heads=4"):
        attention.Config(num_heads=6, num_kv_heads=4, head_dim=2)


def test_a_window_beyond_any_index_is_refused():
    with pytest.raises(ValueError, match="window=10000000000 must be at least 0 and at most 2147483647"):
        attention.Config(num_heads=6, head_dim=4, window=10**10)


def test_no_key_value_heads_means_as_many_as_query_heads():
    assert attention.Config(num_heads=6, head_dim=2).kv_heads == 6


def test_grouped_heads_equal_repeated_key_value_heads():
    grouped = Case(attention.Config(num_heads=6, num_kv_heads=2, head_dim=4))
    full = Case(attention.Config(num_heads=6, head_dim=4))
    repeat = lambda name, leaf: jnp.repeat(leaf, 3, axis=1) if name in ("key", "value") else leaf
    full.params = tree.map_with_path(repeat, grouped.params)
    assert holds(full.full, grouped.full)


def test_the_cache_holds_key_value_heads_only():
    cfg = attention.Config(num_heads=6, num_kv_heads=2, head_dim=4)
    cache = cfg.init_cache(3, 13, 7, jnp.bfloat16)
    assert cache["key"].shape == cache["value"].shape == (3, 2, 13, 4) and cache["key"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(cache["length"], [0, 0, 0])


def test_without_positions_a_shift_of_positions_changes_nothing():
    case = Case(attention.Config(num_heads=2, head_dim=4, position=none.Config()))
    assert holds(case(inputs(), context(inputs(), start=5)).x, case.full, 1e-6)


def test_with_rope_only_distances_count():
    case = Case(attention.Config(num_heads=2, head_dim=4, position=rope.Config(theta=100.0)))
    spread = context(inputs(), positions=2 * context(inputs()).positions)
    assert holds(case(inputs(), context(inputs(), start=5)).x, case.full)
    assert not holds(case(inputs(), spread).x, case.full, 1e-3)


def test_normed_heads_do_not_see_the_scale_of_their_projections():
    case = Case(attention.Config(num_heads=2, head_dim=4, qk_norm=True))
    before = case.full
    case.params = case.params | {name: 50 * case.params[name] for name in ("query", "key")}
    assert holds(case(inputs(), context(inputs())).x, before, 1e-3)


@pytest.mark.parametrize(("fields", "names"), [
    (dict(), ["key", "out", "query", "value"]),
    (dict(qk_norm=True), ["key", "key_norm/scale", "out", "query", "query_norm/scale", "value"]),
    (dict(bias="qkv", sinks=True), ["key", "key_bias", "out", "query", "query_bias", "sinks", "value", "value_bias"]),
    (dict(position=relative.Config()), ["key", "out", "query", "relative", "value"]),
    (dict(bias="all"), ["key", "key_bias", "out", "out_bias", "query", "query_bias", "value", "value_bias"]),
])  # fmt: skip
def test_parameter_paths(fields, names):
    module = attention.Config(num_heads=2, head_dim=4, **fields).make()
    params = unbox(jax.eval_shape(module.init, jax.random.key(0), inputs(), context(inputs()))["params"])
    assert sorted(tree.paths(params)) == names


def test_with_alibi_a_shift_of_positions_changes_nothing():
    case = Case(attention.Config(num_heads=2, head_dim=4, position=alibi.Config()))
    assert holds(case(inputs(), context(inputs(), start=5)).x, case.full, 1e-6)


def test_attention_both_ways_reads_no_empty_slots_of_its_cache():
    case = Case(attention.Config(num_heads=2, head_dim=4, causal=False))
    cache = case.cfg.init_cache(ROWS, TOKENS + 4, EMBED, jnp.float32)
    assert holds(case(inputs(), context(inputs()), cache).x, case.full)


SCHEMES = {"none": none.Config(), "alibi": alibi.Config(), "relative": relative.Config()}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_that_acts_on_logits_tells_near_from_far(name):
    case = Case(attention.Config(num_heads=2, head_dim=4, causal=False, position=SCHEMES[name]))
    order = np.arange(TOKENS)
    order[[3, 9]] = 9, 3
    swapped = case(inputs()[:, order], context(inputs())).x[:, order]
    assert holds(swapped, case.full, 1e-3) == (name == "none")


def test_a_scheme_that_acts_at_the_input_is_refused():
    with pytest.raises(ValueError, match="position='learned' must act at heads or logits here; it acts at input"):
        attention.Config(num_heads=2, head_dim=4, position=learned.Config(length=7))


def test_a_window_bounds_how_far_a_change_reaches():
    case = Case(attention.Config(num_heads=2, head_dim=4, window=3))
    changed = case(inputs().at[:, 8].add(1.0), context(inputs())).x
    moved = np.abs(np.asarray(changed) - case.full).max(axis=(0, 2)) > 1e-6
    assert list(np.flatnonzero(moved)) == [8, 9, 10]


def test_a_scale_replaces_the_root_of_the_head_dim():
    plain, scaled = (Case(attention.Config(num_heads=2, head_dim=4, scale=scale)) for scale in (0.0, 0.5))
    assert holds(scaled.full, plain.full, 1e-6)
    assert not holds(Case(attention.Config(num_heads=2, head_dim=4, scale=2.0)).full, plain.full, 1e-3)


def test_dropout_follows_the_key_and_rests_when_deterministic():
    case = Case(attention.Config(num_heads=2, head_dim=4, dropout=0.5))
    noisy = lambda seed: case(inputs(), context(inputs(), key=jax.random.key(seed), deterministic=False)).x
    assert not holds(noisy(0), case.full, 1e-3) and not holds(noisy(0), noisy(1), 1e-3)
    np.testing.assert_array_equal(noisy(0), noisy(0))
    assert holds(case(inputs(), context(inputs(), key=jax.random.key(0))).x, case.full, 1e-6)


OWN = attention.Config(num_heads=2, head_dim=4, position=relative.Config())
READ = OWN.replace(position=relative.Config(owner=False))


def test_an_owner_shares_its_table_and_a_reader_reads_it():
    owner, table = Case(OWN), jnp.ones((32, 2))
    out = owner(inputs(), context(inputs()))
    np.testing.assert_array_equal(out.shared["relative"].value, owner.params["relative"])
    own = {name: leaf for name, leaf in owner.params.items() if name != "relative"}
    given = lambda table: context(inputs(), shared={"relative": Common(table)})
    read = lambda table: READ.make().apply({"params": own}, inputs(), given(table))
    assert holds(read(owner.params["relative"]).x, owner.full) and read(table).shared == {}
    assert not holds(read(table).x, owner.full, 1e-3)


def test_a_reader_without_an_owner_before_it_says_so():
    with pytest.raises(ValueError, match="owner=False: an earlier layer must own the relative table and share it"):
        READ.make().init(jax.random.key(0), inputs(), context(inputs()))


def test_a_reader_has_as_many_heads_as_the_owner():
    owner, x = Case(attention.Config(num_heads=3, head_dim=4, position=relative.Config())), inputs()
    read = dataclasses.replace(context(x), shared=owner(x, context(x)).shared)
    with pytest.raises(ValueError, match="num_heads=2 must be 3, those of the layer that owns the relative table"):
        READ.make().init(jax.random.key(0), x, read)


def test_a_table_that_is_not_shared_stays_in_its_layer():
    cfg = attention.Config(num_heads=2, head_dim=4, position=relative.Config(shares=False))
    assert Case(cfg)(inputs(), context(inputs())).shared == {}


def test_rows_of_several_chunks_are_those_of_the_dense_reference(monkeypatch):
    cfg = attention.Config(num_heads=2, num_kv_heads=1, head_dim=2, window=50, scale=0.3)
    length = CHUNK + 3
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, length, 5)), jnp.float32)
    places = jnp.tile(jnp.arange(length), (2, 1))
    read = Context(positions=places, segment_ids=1 + places // 70, valid=places < length - 2)
    params = unbox(cfg.make().init(jax.random.key(0), x, read)["params"])
    run = lambda: jax.jit(cfg.make().apply)({"params": params}, x, read).x[:, :-2]
    assert cfg.form(length, cfg.dropout) == "chunks"
    chunked = run()
    monkeypatch.setattr(attention.Config, "form", lambda *_: "dense")
    np.testing.assert_allclose(chunked, run(), atol=2e-6)


BESIDE = [{"position": alibi.Config()}, {"position": relative.Config()}, {"soft_cap": 0.5, "sinks": True}]
LONG = CHUNK * MOST_CHUNKS + 1


@pytest.mark.parametrize("fields", [*BESIDE, {"dropout": 0.1}], ids=lambda fields: next(iter(fields)))
def test_what_chunks_cannot_do_is_dense_until_rows_are_long(fields):
    cfg = attention.Config(num_heads=2, head_dim=2, **fields)
    assert cfg.form(LONG - 1, cfg.dropout) == "dense"
    assert cfg.form(LONG, cfg.dropout) == ("dense" if cfg.dropout else "blocks")


@pytest.mark.parametrize("fields", BESIDE, ids=["alibi", "relative", "soft cap and sinks"])
def test_long_rows_with_a_bias_a_cap_or_sinks_are_those_of_the_dense_reference(fields, monkeypatch):
    cfg = attention.Config(num_heads=2, num_kv_heads=1, head_dim=2, window=700, scale=0.3, **fields)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, LONG, 3)), jnp.float32)
    places = jnp.arange(LONG)[None]
    read = Context(positions=places, segment_ids=1 + places // 600, valid=places < LONG - 2)
    params = unbox(cfg.make().init(jax.random.key(0), x, read)["params"])
    loss = lambda params, x: jnp.sum(jnp.sin(3 * cfg.make().apply({"params": params}, x, read).x[:, :-2]))
    pairs = lambda: f"{LONG},{LONG}" in str(jax.make_jaxpr(jax.grad(loss))(params, x))
    assert not pairs()
    by_blocks = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    monkeypatch.setattr(attention.Config, "form", lambda *_: "dense")
    assert pairs()
    dense = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), by_blocks, dense)
