"""What is particular to cross-attention: it needs a memory, reads its valid part, and may start closed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Memory
from arch.layers.weight import unbox
from arch.mixers import cross_attention
from tests.contracts.sublayers import Case, context, holds, inputs, memory

PLAIN, GATED = (cross_attention.Config(num_heads=2, head_dim=3, gated=gated) for gated in (False, True))


def test_without_a_memory_it_says_so():
    with pytest.raises(ValueError, match="memory=None: cross_attention needs Context.memory"):
        Case(PLAIN).apply(Case(PLAIN).params, inputs(), context(inputs(), memory=None))


def test_it_reads_the_memory():
    case, other = Case(PLAIN), Memory(memory().values + 1, memory().valid)
    assert not holds(case(inputs(), context(inputs(), memory=other)).x, case.full, 1e-3)


def test_it_does_not_read_what_is_not_valid_in_the_memory():
    case, given = Case(PLAIN), memory()
    other = Memory(jnp.where(given.valid[..., None], given.values, 9.0), given.valid)
    assert holds(case(inputs(), context(inputs(), memory=other)).x, case.full, 1e-6)


def test_a_memory_without_a_mask_is_all_valid():
    case, values = Case(PLAIN), memory().values
    masked = Memory(values, jnp.ones(values.shape[:2], bool))
    first, second = (case(inputs(), context(inputs(), memory=given)).x for given in (Memory(values), masked))
    assert holds(first, second, 1e-6)


def test_the_order_of_the_memory_does_not_count():
    case, given = Case(PLAIN), memory()
    turned = Memory(given.values[:, ::-1], given.valid[:, ::-1])
    assert holds(case(inputs(), context(inputs(), memory=turned)).x, case.full)


def test_packed_tokens_read_their_own_document_of_a_packed_memory():
    case, given, x = Case(PLAIN), memory().values, inputs()
    places = jnp.arange(x.shape[1])[None] + jnp.zeros((x.shape[0], 1), jnp.int32)
    ours, theirs = jnp.where(places < 4, 1, 2), jnp.where(places[:, : given.shape[1]] < 2, 1, 2)
    packed = case(x, context(x, segment_ids=ours, memory=Memory(given, segment_ids=theirs))).x
    first, second = (case(x, context(x, memory=Memory(given, theirs == number))).x for number in (1, 2))
    assert holds(packed, jnp.concatenate([first[:, :4], second[:, 4:]], axis=1), 1e-6)


def test_a_packed_memory_needs_the_tokens_documents():
    x, packed = inputs(), Memory(memory().values, segment_ids=jnp.ones(memory().values.shape[:2], jnp.int32))
    with pytest.raises(ValueError, match="segment_ids=None: a packed memory needs"):
        Case(PLAIN).apply(Case(PLAIN).params, x, context(x, memory=packed))


def test_a_gate_starts_closed():
    params = unbox(GATED.make().init(jax.random.key(0), inputs(), context(inputs()))["params"])
    np.testing.assert_array_equal(Case(GATED).apply(params, inputs(), context(inputs())).x, 0)


@pytest.mark.parametrize(("bias", "names"), [
    ("none", {"query", "key", "value", "out"}),
    ("qkv", {"query", "key", "value", "out", "query_bias", "key_bias", "value_bias"}),
    ("all", {"query", "key", "value", "out", "query_bias", "key_bias", "value_bias", "out_bias"}),
])  # fmt: skip
def test_parameter_names(bias, names):
    assert set(Case(cross_attention.Config(num_heads=2, head_dim=3, bias=bias)).params) == names


def test_a_scale_replaces_the_root_of_the_head_dim():
    same, other = (Case(cross_attention.Config(num_heads=2, head_dim=3, scale=scale)) for scale in (3**-0.5, 1.0))
    assert holds(same.full, Case(PLAIN).full, 1e-6) and not holds(other.full, Case(PLAIN).full, 1e-3)


def test_dropout_follows_the_key_and_rests_when_deterministic():
    case = Case(cross_attention.Config(num_heads=2, head_dim=3, dropout=0.5))
    noisy = lambda seed: case(inputs(), context(inputs(), key=jax.random.key(seed), deterministic=False)).x
    assert not holds(noisy(0), case.full, 1e-3) and not holds(noisy(0), noisy(1), 1e-3)
    assert holds(case(inputs(), context(inputs(), key=jax.random.key(0))).x, case.full, 1e-6)
