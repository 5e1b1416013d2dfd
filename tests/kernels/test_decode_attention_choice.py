"""Attention to a cache is computed by what suits the device and the operands, or by what is named; decoding has it."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest

from arch.kernels import compat
from arch.kernels.decode_attention import decode, tpu
from arch.kernels.decode_attention.choice import attend, choose
from arch.mixers import _attend, attention
from arch.positions import alibi
from tests.contracts.sublayers import Case as Sublayer
from tests.contracts.sublayers import context, holds, inputs
from tests.kernels.decode_attention_cases import Case, agree

HOPPER = "hopper" if compat.available() else "xla"


@pytest.mark.parametrize(
    ("device_kind", "dtype", "channels", "rows", "slots", "expected"),
    [
        ("cpu", "bfloat16", (128, 128), 4, 4096, "xla"),
        ("TPU v5 lite", "bfloat16", (64, 64), 4, 100, "tpu"),
        ("TPU v5p", "float32", (128, 128), 256, 4096, "tpu"),
        ("TPU v6 lite", "bfloat16", (128, 128), 257, 4096, "xla"),
        ("TPU v6 lite", "float16", (128, 128), 4, 4096, "xla"),
        ("NVIDIA H200", "bfloat16", (64, 128), 64, 64, HOPPER),
        ("NVIDIA H100 80GB HBM3", "float16", (128, 128), 1, 4104, HOPPER),
        ("NVIDIA H200", "bfloat16", (128, 128), 1, 4097, "xla"),
        ("NVIDIA H200", "bfloat16", (128, 128), 65, 4096, "xla"),
        ("NVIDIA H200", "bfloat16", (128, 128), 4, 63, "xla"),
        ("NVIDIA H200", "float32", (128, 128), 4, 4096, "xla"),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", (128, 128), 4, 4096, "xla"),
    ],
)
def test_the_device_and_the_operands_choose(device_kind, dtype, channels, rows, slots, expected):
    assert choose(device_kind, dtype, channels, rows=rows, slots=slots) == expected


def test_on_a_processor_it_is_the_reference():
    case = Case((37, 0, 9), tokens=2, window=6, sinks=True, soft_cap=2.0)
    agree(case, lambda *args, **given: attend(*args, device_kind="cpu", **given))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("triton", "implementation='triton' must be '' or one of xla, tpu, hopper"),
        ("hopper", "implementation='hopper' is not for device_kind='cpu'"),
    ],
)
def test_an_implementation_that_cannot_be_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(attend)(*Case((37,)).arrays(), device_kind="cpu", implementation=name)


SIZES = dict(num_heads=4, num_kv_heads=2, head_dim=64)


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v5p", "NVIDIA H200"])
@pytest.mark.parametrize("window", [0, 72])
def test_a_step_of_decoding_takes_what_the_device_has(device_kind, window, monkeypatch):
    monkeypatch.setattr(_attend, "device_kind", lambda: device_kind)
    case = Sublayer(attention.Config(**SIZES, window=window, soft_cap=3.0, sinks=True))
    x = inputs(tokens=1).astype(jnp.bfloat16)
    cache = case.cfg.init_cache(len(x), 96, x.shape[2], jnp.bfloat16)
    traced = str(jax.make_jaxpr(lambda x, cache: case.apply(case.params, x, context(x), cache))(x, cache))
    chosen = choose(device_kind, "bfloat16", (64, 64), rows=2, slots=window or 96)
    assert ("name=decode_attention" in traced) == (chosen != "xla")


@pytest.mark.parametrize("tokens, changes", [(140, {}), (1, dict(position=alibi.Config()))])
def test_long_prefill_and_biases_of_the_logits_take_the_dense_reference(tokens, changes, monkeypatch):
    monkeypatch.setattr(_attend, "device_kind", lambda: "TPU v5p")
    case = Sublayer(attention.Config(**SIZES, **changes))
    x = inputs(tokens=tokens)
    cache = case.cfg.init_cache(len(x), 90, x.shape[2], jnp.float32)
    assert "decode_attention" not in str(jax.make_jaxpr(lambda x: case.apply(case.params, x, context(x), cache))(x))


@pytest.mark.parametrize("window", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_decoding_by_the_kernel_is_one_pass(window, monkeypatch):
    """Interpreted as on a TPU: a prompt of 7 tokens, by the kernel too where its cache is whole, and single steps."""
    monkeypatch.setattr(tpu, "BLOCK", 8)
    monkeypatch.setattr(_attend, "device_kind", lambda: "TPU v5p")
    monkeypatch.setattr(decode, "attend", functools.partial(decode.attend, launch=True))
    case = Sublayer(attention.Config(num_heads=4, num_kv_heads=2, head_dim=4, window=window, soft_cap=3.0, sinks=True))
    assert holds(case.chunks([7] + [1] * 14)[0], case.full)
