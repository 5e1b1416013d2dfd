"""The TPU kernels of decayed linear attention, interpreted on CPU, are the token scan: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import pytest

from arch.kernels import compat
from arch.kernels.linear_attention import tpu
from arch.kernels.linear_attention.decayed import decayed_attention
from tests.kernels.decayed_cases import Case, agree

EVERY = ("state", "reset", "valid", "forget")
FAST = [
    Case("float32", heads=6, groups=2, extras=EVERY),
    Case("bfloat16", length=29, heads=2, groups=2, decay=0.0),
]
SLOW = [
    Case("float32", heads=4, groups=1),
    Case("float32", heads=3, groups=3, length=7, extras=("state",)),
    Case("float32", heads=3, groups=3, length=8, extras=("reset",), decay=0.0),
    Case("float32", heads=2, groups=2, length=65, decay=8.0, extras=("state", "valid")),
    Case("bfloat16", heads=6, groups=3, length=43, extras=EVERY),
    Case("bfloat16", heads=4, groups=1, length=16, values=9, extras=("reset", "state"), decay=8.0),
    Case("bfloat16", heads=2, groups=2, length=1, extras=("state",)),
]
interpreted = functools.partial(decayed_attention, kernels="tpu", launch=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes blocks of any size: chunks of 8 tokens, spans of 2 chunks, 2 heads at a time."""
    monkeypatch.setattr(tpu, "CHUNK", 8)
    monkeypatch.setattr(tpu, "MOST_CHUNKS", 2)
    monkeypatch.setattr(tpu, "MOST_MEMBERS", 2)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_and_gradients_are_those_of_the_token_scan(case):
    agree(case, interpreted)


@pytest.mark.slow
def test_copies_and_reads_are_free_of_races(capfd):
    _, pltpu = compat.tpu()
    launch = pltpu.InterpretParams(detect_races=True)
    case = Case("bfloat16", heads=4, groups=2, length=27, rows=1, extras=("state", "reset"))
    agree(case, functools.partial(decayed_attention, kernels="tpu", launch=launch))
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_the_backward_pass_keeps_one_state_a_span():
    case = Case(length=64, rows=1, heads=2, groups=2)
    arrays = case.arrays()
    _, pull = jax.vjp(lambda arrays: interpreted(**arrays), arrays)
    states = [x.shape for x in jax.tree.leaves(pull) if x.ndim == 5]
    assert states == [(1, 2, 4, case.channels, case.values)]  # 64 tokens are 8 chunks, which are 4 spans


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q, k, v[:, :, :3]), "num_heads=3 must be a multiple of num_groups=2"),
        (lambda q, k, v: (q.astype("bfloat16"), k, v), "query.dtype=bfloat16, key.dtype=float32 .* must be the same"),
        (lambda q, k, v: [array.astype("float16") for array in (q, k, v)], "dtype=float16 must be one of float32"),
        (
            lambda q, k, v: (*(jnp.zeros((1, 3, 2, 1024)),) * 2, jnp.zeros((1, 3, 2, 512))),
            r"channels=\(1024, 512\) of a key and a value must multiply to at most 262144",
        ),
    ],
)
def test_what_the_kernels_do_not_take_is_named(change, message):
    arrays = Case(heads=4, groups=2).arrays()
    with pytest.raises(ValueError, match=message):
        interpreted(*change(*(arrays[name] for name in ("query", "key", "value"))))
