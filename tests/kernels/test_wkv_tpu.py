"""The TPU kernels of WKV, interpreted on CPU, are the token scan: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import pytest

from arch.kernels import compat
from arch.kernels.wkv import tpu_grid
from arch.kernels.wkv.average import wkv
from tests.kernels.wkv_cases import Case, agree

EVERY = ("state", "reset", "valid")
FAST = [
    Case("float32", length=26, extras=EVERY),  # row 1 ends in a reset at a token that is not valid
    Case("bfloat16", length=9, channels=16),
]
SLOW = [
    Case("float32", length=1, extras=("state",)),
    Case("float32", length=32, channels=150, gain=1e3),
    Case("float32", length=29, channels=150, gain=30.0, extras=EVERY),
    Case("bfloat16", length=41, channels=70, extras=("valid",)),
    Case("bfloat16", length=16, extras=("state", "reset"), rows=1),
]
interpreted = functools.partial(wkv, kernels="tpu", launch=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes blocks of any size: 8 channels a row, chunks of 8 tokens."""
    for name, size in {"LANES": 8, "MOST_CHUNK": 8}.items():
        monkeypatch.setattr(tpu_grid, name, size)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_and_gradients_are_those_of_the_token_scan(case):
    agree(case, interpreted)


@pytest.mark.slow
def test_copies_and_reads_are_free_of_races(capfd):
    _, pltpu = compat.tpu()
    launch = pltpu.InterpretParams(detect_races=True)
    case = Case("bfloat16", length=19, rows=1, extras=EVERY)
    agree(case, functools.partial(wkv, kernels="tpu", launch=launch))
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_the_backward_pass_keeps_one_state_a_chunk():
    _, pull = jax.vjp(lambda arrays: interpreted(**arrays), Case(length=64, rows=1, channels=16).arrays())
    assert [x.shape for x in jax.tree.leaves(pull) if x.ndim == 4 and x.shape[1] == 8] == 3 * [(1, 8, 2, 8)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key, value: (key, value.astype("bfloat16")), "key.dtype=float32 and value.dtype=bfloat16 must be the"),
        (lambda key, value: (key.astype("float16"), value.astype("float16")), "key.dtype=float16 must be one of"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(change, message):
    arrays = Case().arrays()
    with pytest.raises(ValueError, match=message):
        interpreted(*change(arrays["key"], arrays["value"]), jnp.ones(11), jnp.ones(11))
