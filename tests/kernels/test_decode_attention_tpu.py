"""The TPU kernel of attention to a cache, interpreted on CPU, is the reference, and visits filled blocks only."""

import functools

import jax
import pytest

from arch.kernels import compat
from arch.kernels.decode_attention import tpu
from arch.kernels.decode_attention.decode import attend
from tests.kernels.block_attention_cases import calls
from tests.kernels.decode_attention_cases import HEADS, Case, agree

FAST = [
    Case((37, 0, 9), kv_heads=2, sinks=True, soft_cap=2.0, value_channels=16),
    Case((37, 20, 2), "bfloat16", kv_heads=1, tokens=3, window=6),
    Case((40, 7), kv_heads=4, slots=40, window=11, sinks=True),
]
SLOW = [
    Case((5, 3), slots=5, kv_heads=1),
    Case((30, 31), "bfloat16", tokens=5, slots=32, soft_cap=3.0),
    Case((37, 1), gain=1e4),
    Case((36, 35), "bfloat16", kv_heads=4, gain=1e3, window=1),
    Case((11, 37), tokens=4, window=37, sinks=True),
]
interpreted = functools.partial(attend, kernels="tpu", launch=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes blocks of any size."""
    monkeypatch.setattr(tpu, "BLOCK", 8)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_are_those_of_the_reference(case):
    agree(case, interpreted)


def test_only_blocks_that_a_query_sees_are_visited(monkeypatch):
    seen = calls(tpu, "_dot", monkeypatch)
    case = Case((37, 0, 17), window=10)
    jax.block_until_ready(interpreted(*case.arrays(), **case.given()))
    blocks = (5 - 27 // 8) + 0 + (3 - 7 // 8)  # of the 5 blocks: from the window's first to the last token's
    assert len(seen) == 2 * case.kv_heads * blocks


@pytest.mark.slow
def test_copies_and_reads_are_free_of_races(capfd):
    _, pltpu = compat.tpu()
    agree(FAST[1], functools.partial(attend, kernels="tpu", launch=pltpu.InterpretParams(detect_races=True)))
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v, place: (q[:, :, :3], k, v, place), "num_heads=3 must be a multiple of num_kv_heads=2"),
        (lambda q, k, v, place: (q.astype("bfloat16"), k, v, place), "query.dtype=bfloat16, .* must be the same"),
        (lambda *given: [*(array.astype("float16") for array in given[:3]), given[3]], "must be one of float32"),
        (lambda q, k, v, place: (q.repeat(129, 1), k, v, place.repeat(129, 1)), "258 queries of a key-value head must"),
    ],
)
def test_what_the_kernel_does_not_take_is_named(change, message):
    assert HEADS == 4
    with pytest.raises(ValueError, match=message):
        interpreted(*change(*Case((37, 5)).arrays()))
