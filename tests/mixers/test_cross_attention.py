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


def test_a_gate_starts_closed():
    params = unbox(GATED.make().init(jax.random.key(0), inputs(), context(inputs()))["params"])
    np.testing.assert_array_equal(Case(GATED).apply(params, inputs(), context(inputs())).x, 0)
