"""The Hopper kernels of the selective scan, interpreted on CPU, are the equation as written, without a race."""

import jax
import pytest

from arch.kernels import compat, lanes
from arch.kernels.selective_scan import hopper, hopper_parts
from arch.kernels.selective_scan.scan import selective_scan
from tests.kernels.interpreter import watching
from tests.kernels.selective_scan_cases import Case, agree

EVERY = ("state", "reset")
FAST = [Case("bfloat16", length=19, rows=1, extras=EVERY)]
SLOW = [
    Case("float32", channels=70, extras=EVERY),
    Case("float32", length=1, extras=("state",)),
    Case("float32", length=32, states=16, gain=30.0),
    Case("float32", length=17, channels=35, states=33, extras=EVERY),
    Case("bfloat16", length=41, states=16, extras=("reset",)),
]
pytestmark = pytest.mark.skipif(
    jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels"
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Chunks of 8 tokens, a quarter of the numbers a thread."""
    monkeypatch.setattr(hopper, "MOST_CHUNK", 8)
    monkeypatch.setattr(hopper_parts, "NUMBERS", 4)


def interpreted(*arrays, **given):
    launch = lanes.Launch(slots=2, interpret=watching())
    return selective_scan(*arrays, **given, kernels="hopper", launch=launch)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_and_gradients_are_those_of_the_equation_without_a_race(case, capfd):
    agree(case, interpreted)
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_the_backward_pass_keeps_one_state_a_chunk():
    arrays = Case(length=64, rows=1, channels=32, states=16).arrays()
    _, pull = jax.eval_shape(lambda arrays: jax.vjp(lambda arrays: interpreted(**arrays), arrays), arrays)
    assert [x.shape for x in jax.tree.leaves(pull) if x.ndim == 5] == [(1, 8, 4, 8, 16)]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("float16"), "x.dtype=float16 must be one of float32, bfloat16 for the kernels of"),
        (Case(states=49), "states=49 of a channel must be at most 48"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(case, message):
    with pytest.raises(ValueError, match=message):
        interpreted(**case.arrays())


@pytest.mark.slow
def test_both_kernels_lower_without_a_gpu(monkeypatch):
    monkeypatch.undo()
    arrays = Case("bfloat16", length=70, channels=100, states=16, extras=EVERY).arrays()

    def both(arrays):
        results, pull = jax.vjp(lambda arrays: selective_scan(**arrays, kernels="hopper"), arrays)
        return results, pull(results)

    text = jax.jit(both).trace(arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 2
