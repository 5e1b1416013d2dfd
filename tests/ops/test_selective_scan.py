"""The selective scan is its recurrence however the sequence is cut, with the gradients of the equation as written."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from arch.ops.selective_scan import selective_scan, selective_scan_reference

BATCH, LENGTH, CHANNELS, STATES = 2, 13, 5, 3
NAMES = ["x", "delta", "A", "B", "C", "D", "state"]
RESET = jnp.zeros((BATCH, LENGTH), bool).at[0, 0].set(True).at[0, 7].set(True).at[1, 4].set(True)


def inputs(dtype=jnp.float32):
    shapes = dict(
        x=(BATCH, LENGTH, CHANNELS),
        delta=(BATCH, LENGTH, CHANNELS),
        A=(CHANNELS, STATES),
        B=(BATCH, LENGTH, STATES),
        C=(BATCH, LENGTH, STATES),
        D=(CHANNELS,),
        state=(BATCH, CHANNELS, STATES),
    )
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arrays = {name: jax.random.normal(key, shape, dtype) for key, (name, shape) in zip(keys, shapes.items())}
    return arrays | dict(delta=jax.nn.softplus(arrays["delta"]), A=-jnp.exp(arrays["A"]))


def call(scan, arrays, *, reset=None, **settings):
    @jax.jit
    def run(arrays, reset):
        return scan(*(arrays[name] for name in NAMES[:-1]), state=arrays["state"], reset=reset, **settings)

    return run(arrays, reset)


def cut(arrays, start, stop):
    return arrays | {name: arrays[name][:, start:stop] for name in ("x", "delta", "B", "C")}


def loop(arrays):
    """The two equations in numpy, float64, one token and one channel at a time."""
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    h, y = arrays["state"].copy(), np.zeros((BATCH, LENGTH, CHANNELS))
    for b, t, f in np.ndindex(y.shape):
        x, delta = arrays["x"][b, t, f], arrays["delta"][b, t, f]
        h[b, f] = np.exp(delta * arrays["A"][f]) * h[b, f] + delta * arrays["B"][b, t] * x
        y[b, t, f] = arrays["C"][b, t] @ h[b, f] + arrays["D"][f] * x
    return y, h


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_values_are_those_of_the_equation(implementation):
    arrays = inputs()
    y, h = call(selective_scan, arrays, chunk=4, implementation=implementation)
    expected_y, expected_h = loop(arrays)
    np.testing.assert_allclose(y, expected_y, atol=1e-5)  # STATES terms and a few steps of memory, of eps 1.2e-7
    np.testing.assert_allclose(h, expected_h, atol=1e-5)


def test_no_state_is_a_state_of_zeros():
    arrays = inputs() | dict(state=None)
    zeros = arrays | dict(state=jnp.zeros((BATCH, CHANNELS, STATES)))
    jax.tree.map(np.testing.assert_array_equal, call(selective_scan, arrays), call(selective_scan, zeros))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_one_pass_equals_chunks_with_carried_state(size):
    arrays = inputs()
    whole, last = call(selective_scan, arrays, reset=RESET)
    parts = []
    for start in range(0, LENGTH, size):
        stop = start + size
        y, h = call(selective_scan, cut(arrays, start, stop), reset=RESET[:, start:stop])
        arrays = arrays | dict(state=h)
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-5)
    np.testing.assert_allclose(h, last, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_a_reset_token_starts_from_zeros(implementation):
    arrays = inputs()
    packed, _ = call(selective_scan, arrays, reset=RESET, chunk=4, implementation=implementation)
    first, _ = call(selective_scan, cut(arrays, 0, 4), implementation=implementation)
    fresh = arrays | dict(state=jnp.zeros_like(arrays["state"]))
    second, _ = call(selective_scan, cut(fresh, 4, None), implementation=implementation)
    np.testing.assert_allclose(packed[1, :4], first[1], atol=1e-5)
    np.testing.assert_allclose(packed[1, 4:], second[1], atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_tokens_of_delta_zero_leave_the_state_unchanged(implementation):
    arrays = inputs()
    lengths = np.array([5, 11])
    valid = np.arange(LENGTH) < lengths[:, None]
    masked = arrays | dict(delta=jnp.where(valid[..., None], arrays["delta"], 0))
    _, h = call(selective_scan, masked, chunk=4, implementation=implementation)
    for row, length in enumerate(lengths):
        _, expected = call(selective_scan, cut(arrays, 0, length), chunk=4, implementation=implementation)
        np.testing.assert_allclose(h[row], expected[row], atol=1e-6)


def test_changing_a_token_leaves_earlier_outputs_and_other_rows():
    arrays = inputs()
    y, _ = call(selective_scan, arrays, chunk=4)
    changed, _ = call(selective_scan, arrays | dict(x=arrays["x"].at[1, 6].add(1.0)), chunk=4)
    differs = np.any(np.asarray(y != changed), axis=2)
    assert not differs[0].any() and not differs[1, :6].any() and differs[1, 6:].all()


def gradients(scan, arrays, reset=RESET, **settings):
    """Of a function of all outputs in which no two elements weigh the same."""

    @jax.jit
    @jax.grad
    def run(arrays):
        loss = lambda out: jnp.sum(jnp.sin(jnp.arange(out.size, dtype=out.dtype).reshape(out.shape)) * jnp.sin(out))
        y, h = scan(*(arrays[name] for name in NAMES[:-1]), state=arrays["state"], reset=reset, **settings)
        return loss(y) + loss(h)

    return run(arrays)


def test_gradients_are_those_of_the_reference_in_float64():
    with jax.enable_x64():
        arrays = inputs(jnp.float64)
        expected = gradients(selective_scan_reference, arrays)
        for chunk in (1, 4, 64):
            ours = gradients(selective_scan, arrays, chunk=chunk)
            for name in NAMES:
                assert jnp.any(expected[name] != 0)
                np.testing.assert_allclose(ours[name], expected[name], atol=1e-12, err_msg=f"{name}, chunk={chunk}")


@pytest.mark.parametrize("reset", [None, RESET])
def test_gradients_under_jit_and_remat_are_those_of_the_reference_in_float32(reset):
    arrays = inputs()
    remat = lambda *args, **kwargs: jax.checkpoint(lambda *args: selective_scan(*args, chunk=4, **kwargs))(*args)
    ours = gradients(remat, arrays, reset)
    expected = gradients(selective_scan_reference, arrays, reset)
    for name in NAMES:
        # the longest sum, A's, has BATCH * LENGTH terms, each the end of a product over LENGTH steps
        atol = BATCH * LENGTH * np.finfo(np.float32).eps * float(jnp.max(jnp.abs(expected[name])))
        np.testing.assert_allclose(ours[name], expected[name], atol=atol, rtol=0, err_msg=name)


def test_batch_and_channels_may_be_sharded():
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    arrays = inputs()
    arrays |= {name: jnp.concatenate([arrays[name], arrays[name][..., :1]], -1) for name in ("x", "delta", "D")}
    arrays |= {name: jnp.concatenate([arrays[name], arrays[name][..., :1, :]], -2) for name in ("A", "state")}
    wide, narrow = PartitionSpec("data", None, "tensor"), PartitionSpec("data")
    channels = PartitionSpec("tensor")
    specs = [wide, wide, channels, narrow, narrow, channels, PartitionSpec("data", "tensor")]
    sharded = {
        name: jax.device_put(arrays[name], NamedSharding(mesh, spec)) for name, spec in zip(NAMES, specs, strict=True)
    }
    expected = gradients(selective_scan, arrays, chunk=4)
    for name, gradient in gradients(selective_scan, sharded, chunk=4).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_bfloat16_inputs_are_scanned_in_float32():
    arrays = {name: array.astype(jnp.bfloat16) for name, array in inputs().items()}
    y, h = call(selective_scan, arrays, chunk=4)
    assert y.dtype == jnp.bfloat16 and h.dtype == jnp.float32
    wide = {name: array.astype(jnp.float32) for name, array in arrays.items()}
    exact_y, exact_h = call(selective_scan, wide, chunk=4)
    np.testing.assert_array_equal(y, exact_y.astype(jnp.bfloat16))
    np.testing.assert_array_equal(h, exact_h)


def test_gradients_have_the_dtypes_of_their_inputs():
    arrays = inputs() | {name: inputs()[name].astype(jnp.bfloat16) for name in ("x", "B", "C")}
    for name, gradient in gradients(selective_scan, arrays).items():
        assert gradient.dtype == arrays[name].dtype, name


@pytest.mark.usefixtures("optimized")
def test_backward_keeps_a_state_a_chunk_and_not_a_token():
    length, channels, states, chunk = 1024, 32, 16, 32
    shapes = [(1, length, channels)] * 2 + [(channels, states)] + [(1, length, states)] * 2 + [(channels,)]
    objective = lambda *arrays: jnp.sum(selective_scan(*arrays, chunk=chunk)[0])
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(jax.grad(objective, argnums=range(6))).lower(*arrays).compile()
    states_of_all_tokens = 4 * length * channels * states
    assert compiled.memory_analysis().temp_size_in_bytes < states_of_all_tokens / 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [(dict(chunk=0), "chunk=0 must be"), (dict(implementation="cuda"), "implementation='cuda' must be")],
)
def test_an_unknown_setting_raises(kwargs, message):
    unchecked = inspect.unwrap(selective_scan)  # by the types, which know the implementations too
    with pytest.raises(ValueError, match=message):
        call(unchecked, inputs(), **kwargs)
