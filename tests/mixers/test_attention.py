"""What is particular to attention: heads that group, caches, norms of heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.positions import none, rope
from tests.contracts.sublayers import Case, context, holds, inputs


def test_heads_that_do_not_group_are_refused():
    with pytest.raises(ValueError, match="num_heads=6 must be a multiple of num_kv_heads=4"):
        attention.Config(num_heads=6, num_kv_heads=4, head_dim=2)


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
    (dict(bias="all"), ["key", "key_bias", "out", "out_bias", "query", "query_bias", "value", "value_bias"]),
])  # fmt: skip
def test_parameter_paths(fields, names):
    module = attention.Config(num_heads=2, head_dim=4, **fields).make()
    params = unbox(jax.eval_shape(module.init, jax.random.key(0), inputs(), context(inputs()))["params"])
    assert sorted(tree.paths(params)) == names
