"""The Hopper kernels of WKV, interpreted on CPU, are the token scan, without a race."""

import jax
import pytest

from arch.kernels import compat, lanes
from arch.kernels.wkv import hopper
from arch.kernels.wkv.average import wkv
from tests.kernels.interpreter import watching
from tests.kernels.wkv_cases import Case, agree

EVERY = ("state", "reset", "valid")
FAST = [Case("bfloat16", length=19, channels=11, rows=1, extras=EVERY)]
SLOW = [
    Case("float32", length=26, extras=EVERY),  # row 1 ends in a reset at a token that is not valid
    Case("float32", length=1, extras=("state",)),
    Case("float32", length=32, channels=16, gain=1e3),
    Case("float32", length=29, gain=30.0, extras=EVERY),
    Case("bfloat16", length=41, extras=("valid",)),
    Case("bfloat16", length=16, extras=("state", "reset"), rows=1),
]
pytestmark = pytest.mark.skipif(
    jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels"
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes blocks of any size: 8 channels, chunks of 8 tokens."""
    for name, size in {"CHANNELS": 8, "MOST_CHUNK": 8}.items():
        monkeypatch.setattr(hopper, name, size)


def interpreted(*arrays, **given):
    launch = lanes.Launch(slots=2, interpret=watching())
    return wkv(*arrays, **given, kernels="hopper", launch=launch)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_and_gradients_are_those_of_the_token_scan_without_a_race(case, capfd):
    agree(case, interpreted)
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_the_backward_pass_keeps_one_state_a_chunk():
    arrays = Case(length=64, rows=1, channels=16).arrays()
    _, pull = jax.eval_shape(lambda arrays: jax.vjp(lambda arrays: interpreted(**arrays), arrays), arrays)
    assert [x.shape for x in jax.tree.leaves(pull) if x.ndim == 3 and x.shape[1] == 8] == 3 * [(1, 8, 16)]


def test_what_the_kernels_do_not_take_is_named():
    with pytest.raises(ValueError, match="key.dtype=float16 must be one of float32, bfloat16 for"):
        interpreted(**Case("float16").arrays())


@pytest.mark.slow
def test_both_kernels_lower_without_a_gpu(monkeypatch):
    monkeypatch.undo()
    arrays = Case("bfloat16", length=70, channels=200, extras=EVERY).arrays()

    def both(arrays):
        results, pull = jax.vjp(lambda arrays: wkv(**arrays, kernels="hopper"), arrays)
        return results, pull(results)

    text = jax.jit(both).trace(arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 2
