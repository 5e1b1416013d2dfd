"""The Hopper kernel of attention to a cache, interpreted, is the reference, without a race or a block too many."""

import functools

import jax
import pytest

from arch.kernels import compat
from arch.kernels.decode_attention import hopper
from arch.kernels.decode_attention.decode import attend
from arch.kernels.decode_attention.hopper import Launch
from tests.kernels.block_attention_cases import calls
from tests.kernels.decode_attention_cases import Case, agree
from tests.kernels.interpreter import watching

case = functools.partial(Case, dtype="bfloat16", slots=152, channels=64, value_channels=64)
FAST = [case((150, 0, 70), kv_heads=2, window=100, sinks=True, soft_cap=2.0)]
SLOW = [
    case((64, 63), kv_heads=1, slots=64, tokens=3),
    case((150,), kv_heads=4, dtype="float16", value_channels=128),
    case((300, 129), kv_heads=2, slots=304, channels=128, tokens=5, window=7),
    case((140, 2), kv_heads=1, gain=1e3, tokens=4),
]

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels"
)


def interpreted(*args, parts=2, **given):
    launch = Launch(slots=2, parts=parts, interpret=watching())
    return attend(*args, kernels="hopper", launch=launch, **given)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_are_those_of_the_reference_without_a_race(case, capfd):
    agree(case, interpreted)
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
def test_only_blocks_that_a_query_sees_are_visited_whatever_they_are_shared_into(parts, monkeypatch):
    seen = calls(hopper, "product", monkeypatch)
    windowed = case((150, 0, 70), window=20, kv_heads=2)
    agree(windowed, functools.partial(interpreted, parts=parts))
    assert len(seen) == 2 * (1 + 0 + 2)  # 131 ... 150 are in the third block, 51 ... 70 in the first two


def test_parts_keep_an_h200_busy_and_are_no_more_than_blocks():
    assert [Launch().split(tasks, 128) for tasks in (1, 8, 128, 132, 500)] == [128, 17, 2, 1, 1]
    assert Launch().split(1, 3) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dtype="float32"), "query.dtype=float32 must be one of bfloat16, float16: wgmma has no float32"),
        (dict(channels=80), r"channels=\(80, 64\) must be 64 or 128 each for the kernels of kernels='hopper'"),
        (dict(tokens=33), "66 queries of a key-value head must be at most 64"),
        (dict(slots=63), "a cache of 63 slots must have at least 64, and a multiple of 8"),
        (dict(slots=156), "a cache of 156 slots must have at least 64, and a multiple of 8"),
    ],
)
def test_what_the_kernel_does_not_take_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        interpreted(*case((60,), **changes).arrays())
