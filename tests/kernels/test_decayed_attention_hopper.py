"""The Hopper kernels of decayed linear attention, interpreted on CPU, are the token scan, without a race.

The interpreter simulates shared memory, copies, barriers and warpgroups, and reports accesses that nothing orders.
"""

import functools

import jax
import pytest

from arch.kernels import compat
from arch.kernels.linear_attention.decayed import decayed_attention
from arch.kernels.linear_attention.hopper_parts import Launch
from tests.kernels.decayed_cases import Case, agree
from tests.kernels.interpreter import watching

case = functools.partial(Case, dtype="bfloat16", rows=1, channels=64, values=64)
FAST = [case(length=70, heads=1, groups=1, extras=("reset", "valid"))]
SLOW = [
    case(length=200, heads=1, groups=1, extras=("state", "forget"), decay=0.1),
    case(length=130, heads=2, groups=1, channels=128, extras=("state",), decay=0.1),
    case(length=64, heads=2, groups=2, values=128, decay=0.0, rows=2),
]

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels"
)


def interpreted(**given):
    launch = Launch(slots=2, chunks=2, interpret=watching())
    return decayed_attention(**given, kernels="hopper", launch=launch)


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_values_and_gradients_are_those_of_the_token_scan_without_a_race(case, capfd):
    agree(case, interpreted)
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dtype="float32"), "query.dtype=float32 must be bfloat16: wgmma has no float32"),
        (dict(dtype="float16"), "query.dtype=float16 must be bfloat16"),
        (dict(channels=96), r"channels=\(96, 64\) of a key and a value must be 64 or 128, and a multiple of 64"),
        (dict(values=65), r"channels=\(64, 65\) of a key and a value must be"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        interpreted(**case(**changes).arrays())
