"""The causal convolution sees the w-1 tokens before its own, of its own segment, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from arch.ops.causal_conv import causal_conv

BATCH, LENGTH, WIDTH, CHANNELS = 2, 11, 4, 3


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(BATCH, LENGTH, CHANNELS), (WIDTH, CHANNELS), (CHANNELS,), (BATCH, WIDTH - 1, CHANNELS)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


def oracle(x, weight, bias, tail):
    """numpy's convolution of each channel, float64."""
    x, weight, bias, tail = (np.asarray(array, np.float64) for array in (x, weight, bias, tail))
    row = lambda past, now, c: np.convolve(np.concatenate([past[:, c], now[:, c]]), weight[::-1, c], "valid") + bias[c]
    return np.stack([np.stack([row(tail[b], x[b], c) for c in range(CHANNELS)], -1) for b in range(BATCH)])


def test_values_are_those_of_a_convolution():
    x, weight, bias, tail = inputs()
    y, _ = causal_conv(x, weight, bias, tail=tail)
    np.testing.assert_allclose(y, oracle(x, weight, bias, tail), atol=1e-5)


def test_no_tail_is_a_tail_of_zeros():
    x, weight, bias, tail = inputs()
    np.testing.assert_array_equal(
        causal_conv(x, weight, bias)[0], causal_conv(x, weight, bias, tail=jnp.zeros_like(tail))[0]
    )


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_one_pass_equals_chunks_with_carried_tail(chunk):
    x, weight, bias, tail = inputs()
    whole, last = causal_conv(x, weight, bias, tail=tail)
    parts = []
    for start in range(0, LENGTH, chunk):
        y, tail = causal_conv(x[:, start : start + chunk], weight, bias, tail=tail)
        parts.append(y)
    np.testing.assert_array_equal(jnp.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(tail, last)


def test_a_packed_segment_equals_the_segment_alone():
    x, weight, bias, tail = inputs()
    segments = jnp.array([[1] * 2 + [2] * 9, [5] * 8 + [0] * 3])
    packed, _ = causal_conv(x, weight, bias, tail=tail, segment_ids=segments)
    for row, cut in enumerate([2, 8]):
        first, _ = causal_conv(x[:, :cut], weight, bias, tail=tail)
        second, _ = causal_conv(x[:, cut:], weight, bias)
        np.testing.assert_array_equal(packed[row, :cut], first[row])
        np.testing.assert_array_equal(packed[row, cut:], second[row])


@pytest.mark.parametrize("lengths", [(11, 1), (0, 2), (3, 5)])
def test_tail_holds_the_last_valid_inputs(lengths):
    x, weight, bias, tail = inputs()
    valid = jnp.arange(LENGTH) < jnp.array(lengths)[:, None]
    _, new_tail = causal_conv(x, weight, bias, tail=tail, valid=valid)
    for row, length in enumerate(lengths):
        history = jnp.concatenate([tail[row], x[row, :length]])
        np.testing.assert_array_equal(new_tail[row], history[-(WIDTH - 1) :])


def test_a_padded_prefill_then_a_step_equals_the_unpadded_row():
    x, weight, bias, tail = inputs()
    lengths = jnp.array([5, 10])
    _, carried = causal_conv(x, weight, bias, tail=tail, valid=jnp.arange(LENGTH) < lengths[:, None])
    rows = jnp.arange(BATCH)
    step, _ = causal_conv(x[rows, lengths][:, None], weight, bias, tail=carried)
    whole, _ = causal_conv(x, weight, bias, tail=tail)
    np.testing.assert_array_equal(step[:, 0], whole[rows, lengths])


def test_changing_a_token_leaves_earlier_outputs_and_later_ones_out_of_reach():
    x, weight, bias, _ = inputs()
    y, _ = causal_conv(x, weight, bias)
    changed, _ = causal_conv(x.at[:, 4].add(1.0), weight, bias)
    differs = jnp.any(y != changed, axis=(0, 2))
    np.testing.assert_array_equal(jnp.flatnonzero(differs), np.arange(4, 4 + WIDTH))


def test_width_one_is_a_scale_and_a_bias():
    x, weight, bias, _ = inputs()
    y, tail = causal_conv(x, weight[:1], bias, valid=jnp.ones(x.shape[:2], bool))
    np.testing.assert_allclose(y, x * weight[0] + bias, rtol=1e-6)
    assert tail.shape == (BATCH, 0, CHANNELS)


def test_bfloat16_sums_in_float32():
    arrays = inputs(jnp.bfloat16)
    y, tail = causal_conv(*arrays[:3], tail=arrays[3])
    assert y.dtype == tail.dtype == jnp.bfloat16
    exact, _ = causal_conv(*(array.astype(jnp.float32) for array in arrays[:3]), tail=arrays[3].astype(jnp.float32))
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_gradients_match_finite_differences():
    with jax.enable_x64():
        arrays = [array.astype(jnp.float64) for array in inputs()]
        segments = jnp.array([[1] * 2 + [2] * 9, [5] * 8 + [0] * 3])
        valid = jnp.arange(LENGTH) < jnp.array([11, 8])[:, None]

        @jax.jit
        def outputs(x, weight, bias, tail):
            return causal_conv(x, weight, bias, tail=tail, segment_ids=segments, valid=valid)

        check_grads(outputs, arrays, order=1, modes=["rev"], eps=1e-3, atol=1e-9, rtol=1e-9)
