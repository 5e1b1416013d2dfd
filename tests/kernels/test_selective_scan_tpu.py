"""The TPU kernels of the selective scan, interpreted on CPU, are the equation as written: values and gradients."""

import functools

import jax
import pytest

from arch.kernels import compat
from arch.kernels.selective_scan import tpu_grid
from arch.kernels.selective_scan.scan import selective_scan
from tests.kernels.selective_scan_cases import Case, agree

FAST = [
    Case("float32", extras=("state", "reset")),
    Case("bfloat16", length=9, channels=16, states=8),
]
SLOW = [
    Case("float32", length=1, extras=("state",)),
    Case("float32", length=32, channels=8, states=16, gain=30.0),
    Case("bfloat16", length=41, channels=23, states=5, extras=("state", "reset")),
    Case("bfloat16", length=16, extras=("reset",), rows=1),
]
interpreted = functools.partial(selective_scan, kernels="tpu", launch=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes blocks of any size: 8 or 16 channels, chunks of 8 tokens, 4 at a time."""
    for name, size in {"LANES": 8, "MOST_CHANNELS": 16, "MOST_CHUNK": 8, "GROUP": 4}.items():
        monkeypatch.setattr(tpu_grid, name, size)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_and_gradients_are_those_of_the_equation(case):
    agree(case, interpreted)


@pytest.mark.slow
def test_copies_and_reads_are_free_of_races(capfd):
    _, pltpu = compat.tpu()
    launch = pltpu.InterpretParams(detect_races=True)
    case = Case("bfloat16", length=19, rows=1, extras=("state", "reset"))
    agree(case, functools.partial(selective_scan, kernels="tpu", launch=launch))
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_the_backward_pass_keeps_one_state_a_chunk():
    case = Case(length=64, rows=1, channels=8, states=8)
    _, pull = jax.vjp(lambda arrays: interpreted(**arrays), case.arrays())
    assert [x.shape for x in jax.tree.leaves(pull) if x.ndim == 4] == [(1, 8, 8, 8)]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("float16"), "x.dtype=float16 must be one of float32, bfloat16 for the kernels of kernels='tpu'"),
        (Case(states=65), "states=65 of a channel must be at most 64"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(case, message):
    with pytest.raises(ValueError, match=message):
        interpreted(**case.arrays())
