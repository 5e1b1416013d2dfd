"""Attention over a block map is computed by what suits the device and the operands, or by what is named."""

import inspect

import jax
import pytest

from arch.kernels import compat
from arch.kernels.block_attention.choice import attend, choose
from tests.kernels.block_attention_cases import Case, agree

HOPPER = "hopper" if compat.available() else "xla"


@pytest.mark.parametrize(
    ("device_kind", "dtype", "channels", "block", "expected"),
    [
        ("cpu", "bfloat16", (128, 128), (128, 128), "xla"),
        ("TPU v5 lite", "bfloat16", (64, 64), (256, 512), "tpu"),
        ("TPU v5p", "float32", (128, 128), (128, 128), "tpu"),
        ("TPU v6 lite", "bfloat16", (64, 64), (64, 64), "xla"),
        ("TPU v6 lite", "float16", (64, 64), (128, 128), "xla"),
        ("NVIDIA H200", "bfloat16", (64, 128), (64, 128), HOPPER),
        ("NVIDIA H100 80GB HBM3", "float16", (128, 128), (128, 128), HOPPER),
        ("NVIDIA H200", "float32", (128, 128), (128, 128), "xla"),
        ("NVIDIA H200", "bfloat16", (96, 96), (128, 128), "xla"),
        ("NVIDIA H200", "bfloat16", (128, 128), (256, 128), "xla"),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", (128, 128), (128, 128), "xla"),
    ],
)
def test_the_device_the_numbers_and_the_blocks_choose(device_kind, dtype, channels, block, expected):
    assert choose(device_kind, dtype, channels, block) == expected


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v5p", "NVIDIA H200"])
def test_what_is_chosen_is_what_is_traced(device_kind):
    case = Case("causal", "bfloat16", length=140, rows=1, block=(128, 128), channels=64, value_channels=64)
    traced = jax.make_jaxpr(lambda *arrays: attend(*arrays, case.map, device_kind=device_kind))(*case.arrays()[:3])
    assert ("name=block_attention" in str(traced)) == (choose(device_kind, "bfloat16", (64, 64), (128, 128)) != "xla")


def test_on_a_processor_it_is_dense_attention_too():
    case = Case("longformer", extras=("segments", "valid", "slopes", "sinks", "soft cap"))
    agree(case, lambda *args, **given: attend(*args, case.map, device_kind="cpu", **given))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("triton", "implementation='triton' must be '' or one of xla, tpu, hopper"),
        ("hopper", "implementation='hopper' is not for device_kind='cpu'"),
        ("tpu", "implementation='tpu' is not for device_kind='cpu'"),
    ],
)
def test_an_implementation_that_cannot_be_is_refused(name, message):
    case = Case("causal")
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(attend)(*case.arrays()[:3], case.map, device_kind="cpu", implementation=name)
