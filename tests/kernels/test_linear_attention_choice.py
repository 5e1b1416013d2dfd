"""Linear attention is computed by what suits the device and the operands, or by what is named."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.kernels import compat
from arch.kernels.linear_attention import decayed
from arch.kernels.linear_attention.choice import choose, linear_attention, ssd
from arch.ops import ssd as state_space
from tests.kernels.decayed_cases import Case, agree

HOPPER = "hopper" if compat.available() else "xla"


@pytest.mark.parametrize(
    ("device_kind", "dtype", "channels", "length", "decays", "expected"),
    [
        ("cpu", "bfloat16", (64, 64), 128, 1, "xla"),
        ("TPU v5 lite", "bfloat16", (64, 128), 128, 1, "tpu"),
        ("TPU v5p", "float32", (64, 65), 7, 1, "tpu"),
        ("TPU v6 lite", "bfloat16", (64, 64), 1, 1, "xla"),
        ("TPU v6 lite", "bfloat16", (64, 64), 128, 64, "xla"),
        ("TPU v6 lite", "float16", (64, 64), 128, 1, "xla"),
        ("TPU v6 lite", "bfloat16", (1024, 512), 128, 1, "xla"),
        ("NVIDIA H200", "bfloat16", (64, 128), 128, 1, HOPPER),
        ("NVIDIA H100 80GB HBM3", "bfloat16", (128, 64), 7, 1, HOPPER),
        ("NVIDIA H200", "float32", (64, 64), 128, 1, "xla"),
        ("NVIDIA H200", "bfloat16", (64, 65), 128, 1, "xla"),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", (64, 64), 128, 1, "xla"),
    ],
)
def test_the_device_and_the_operands_choose(device_kind, dtype, channels, length, decays, expected):
    assert choose(device_kind, dtype, channels, length=length, decays=decays) == expected


def by_heads(query, key, value, log_decay=None, **given):
    decay = None if log_decay is None else log_decay[..., None]
    return linear_attention(query, key, value, decay, **given)


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v5p"])
def test_what_is_chosen_is_what_is_traced(device_kind):
    traced = jax.make_jaxpr(lambda arrays: by_heads(**arrays, device_kind=device_kind))(Case().arrays())
    assert ("name=decayed_attention" in str(traced)) == (choose(device_kind, "float32", (5, 3), length=37) == "tpu")


def test_on_a_processor_it_is_the_token_scan_too():
    case = Case(extras=("state", "reset", "valid"))
    agree(case, lambda **given: by_heads(**given, device_kind="cpu"))


def state_space_arrays():
    draw, (b, t, n, h, k, states) = np.random.default_rng(3), (2, 21, 4, 3, 2, 5)
    shapes = dict(x=(b, t, n, h), delta=(b, t, n), A=(n,), B=(b, t, k, states), C=(b, t, k, states), D=(n,))
    arrays = {name: jnp.asarray(draw.uniform(size=shape), jnp.float32) for name, shape in shapes.items()}
    return arrays | {"A": -arrays["A"], "state": jnp.asarray(draw.normal(size=(b, n, h, states)), jnp.float32)}


def test_the_kernels_compute_the_state_space_too(monkeypatch):
    arrays, reset = state_space_arrays(), jnp.arange(21)[None] % 8 == jnp.asarray([[3], [5]])
    interpreted = functools.partial(decayed.decayed_attention, launch=True)
    monkeypatch.setattr(decayed, "decayed_attention", interpreted)
    found = ssd(**arrays, reset=reset, device_kind="TPU v5p", implementation="tpu")
    expected = state_space.ssd(**arrays, reset=reset, implementation="recurrent")
    for mine, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=1e-5 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(implementation="triton"), "implementation='triton' must be '' or one of xla, tpu, hopper"),
        (dict(implementation="tpu"), "implementation='tpu' is not for device_kind='cpu'"),
        (
            dict(implementation="tpu", device_kind="TPU v5p"),
            "log_decay's channels=5 must be 1 for implementation='tpu'",
        ),
    ],
)
def test_an_implementation_that_cannot_be_is_refused(given, message):
    arrays = Case().arrays()
    decay = jnp.broadcast_to(arrays.pop("log_decay")[..., None], arrays["query"].shape)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(linear_attention)(**arrays, log_decay=decay, **(dict(device_kind="cpu") | given))
