"""The selective scan is computed by what suits the device and the operands, or by what is named."""

import inspect

import jax
import pytest

from arch.kernels import compat
from arch.kernels.selective_scan.choice import choose, selective_scan
from tests.kernels.selective_scan_cases import Case, agree

HOPPER = "hopper" if compat.available() else "xla"


@pytest.mark.parametrize(
    ("device_kind", "dtype", "states", "length", "expected"),
    [
        ("cpu", "bfloat16", 16, 128, "xla"),
        ("TPU v5 lite", "bfloat16", 16, 128, "tpu"),
        ("TPU v5p", "float32", 5, 3, "tpu"),
        ("TPU v6 lite", "bfloat16", 16, 1, "xla"),
        ("TPU v6 lite", "float16", 16, 128, "xla"),
        ("TPU v6 lite", "bfloat16", 65, 128, "xla"),
        ("NVIDIA H200", "bfloat16", 16, 128, HOPPER),
        ("NVIDIA H100 80GB HBM3", "float32", 48, 3, HOPPER),
        ("NVIDIA H200", "float16", 16, 128, "xla"),
        ("NVIDIA H200", "bfloat16", 49, 128, "xla"),
        ("NVIDIA H200", "float32", 16, 1, "xla"),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 16, 128, "xla"),
    ],
)
def test_the_device_and_the_operands_choose(device_kind, dtype, states, length, expected):
    assert choose(device_kind, dtype, states, length=length) == expected


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v5p", "NVIDIA H200"])
def test_what_is_chosen_is_what_is_traced(device_kind):
    traced = jax.make_jaxpr(lambda arrays: selective_scan(**arrays, device_kind=device_kind))(Case().arrays())
    assert ("name=selective_scan" in str(traced)) == (choose(device_kind, "float32", 3, length=37) != "xla")


def test_on_a_processor_it_is_the_equation_too():
    agree(Case(extras=("state", "reset")), lambda **given: selective_scan(**given, device_kind="cpu"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(implementation="triton"), "implementation='triton' must be '' or one of xla, tpu, hopper"),
        (dict(implementation="tpu"), "implementation='tpu' is not for device_kind='cpu'"),
        (dict(implementation="hopper", device_kind="TPU v5p"), "'hopper' is not for device_kind='TPU v5p'"),
        (dict(implementation="tpu", device_kind="TPU v5p"), "states=65 of a channel must be at most 64"),
    ],
)
def test_an_implementation_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(selective_scan)(**Case(states=65).arrays(), **(dict(device_kind="cpu") | given))
