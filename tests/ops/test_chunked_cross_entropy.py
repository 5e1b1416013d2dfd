"""Smoothing and the z-loss are what their papers say, and chunks of tokens change neither value nor gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.chunked_cross_entropy import chunked_cross_entropy, soft_capped, token_loss
from arch.sharding import mesh as meshes

ROWS, LENGTH, WIDTH, VOCAB = 2, 11, 5, 13
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((ROWS, LENGTH, WIDTH)), jnp.float32)
TABLE = jnp.asarray(RNG.standard_normal((VOCAB, WIDTH)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(VOCAB, size=(ROWS, LENGTH)), jnp.int32)
WEIGHTS = jnp.asarray(RNG.choice([0.0, 0.5, 1.0], size=(ROWS, LENGTH)), jnp.float32)
ALL = dict(soft_cap=2.0, label_smoothing=0.1, z_weight=0.03)


def whole(x, table, targets, weights, bias=None, *, soft_cap=0.0, **rest):
    """The weighted sums from all logits at once."""
    logits = jnp.einsum("...d,vd->...v", x, table)
    logits = soft_capped(logits if bias is None else logits + bias, soft_cap)
    return tuple(jnp.sum(value * weights) for value in token_loss(logits, targets, **rest))


def with_aux(loss):
    """Loss, and what is for the log."""

    def pair(*arrays):
        value, *logged = loss(*arrays)
        return value, logged

    return pair


def log_softmax(logits):
    """Of the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def picked(array):
    """Each token's entry at its target."""
    return np.take_along_axis(array, np.asarray(TARGETS)[..., None], -1)[..., 0]


LOGITS = X @ TABLE.T


def test_without_smoothing_and_z_loss_the_loss_is_nats():
    loss, nats, _ = token_loss(LOGITS, TARGETS)
    np.testing.assert_array_equal(loss, nats)


def test_smoothing_is_cross_entropy_against_targets_mixed_with_the_uniform_distribution():
    mixed = 0.7 * np.eye(VOCAB)[np.asarray(TARGETS)] + 0.3 / VOCAB
    loss, nats, _ = token_loss(LOGITS, TARGETS, label_smoothing=0.3)
    np.testing.assert_allclose(loss, -(mixed * log_softmax(LOGITS)).sum(-1), rtol=2e-6)
    np.testing.assert_allclose(nats, -picked(log_softmax(LOGITS)), rtol=2e-6, atol=1e-6)


def test_the_z_loss_is_the_squared_log_of_the_normaliser():
    log_z = np.log(np.exp(np.asarray(LOGITS, np.float64)).sum(-1))
    loss, nats, _ = token_loss(LOGITS, TARGETS, z_weight=0.25)
    np.testing.assert_allclose(loss - nats, 0.25 * log_z**2, rtol=1e-5)


def test_soft_capped_logits_stay_within_the_cap_and_small_ones_as_they_are():
    capped = soft_capped(jnp.asarray([-1e6, -0.01, 0.01, 1e6]), 2.0)
    np.testing.assert_allclose(capped, [-2, -0.01, 0.01, 2], rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 8, 22, 100])
def test_any_chunk_gives_the_sums_of_all_logits(chunk):
    actual = chunked_cross_entropy(X, TABLE, TARGETS, WEIGHTS, chunk=chunk, **ALL)
    np.testing.assert_allclose(actual, whole(X, TABLE, TARGETS, WEIGHTS, **ALL), rtol=2e-6)


@pytest.mark.parametrize("kind", [{}, *({name: value} for name, value in ALL.items()), ALL], ids=str)
def test_gradients_of_hidden_states_and_table_are_those_of_all_logits(kind):
    chunked = partial(chunked_cross_entropy, chunk=5, **kind)
    grad = lambda loss: jax.grad(lambda x, table: 7 * loss(x, table, TARGETS, WEIGHTS)[0], argnums=(0, 1))(X, TABLE)
    for actual, expected in zip(grad(chunked), grad(partial(whole, **kind)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_the_gradient_of_a_tied_and_scaled_table_is_that_of_all_logits():
    def loss(function, table):
        return function(0.3 * jnp.tanh(table[TARGETS[:, ::-1]]), table, TARGETS, WEIGHTS)[0]

    actual = jax.grad(partial(loss, partial(chunked_cross_entropy, chunk=4)))(TABLE)
    np.testing.assert_allclose(actual, jax.grad(partial(loss, whole))(TABLE), rtol=2e-5, atol=2e-5)


def test_a_bias_moves_the_logits_and_has_the_gradient_of_all_logits():
    bias = jnp.asarray(RNG.standard_normal(VOCAB), jnp.float32)
    values, gradients = [], []
    for function in (whole, partial(chunked_cross_entropy, chunk=5)):
        loss = lambda x, table, bias: with_aux(partial(function, **ALL))(x, table, TARGETS, WEIGHTS, bias)
        value, gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(X, TABLE, bias)
        values.append(jax.tree.leaves(value))
        gradients.append(gradient)
    np.testing.assert_allclose(*values, rtol=2e-6)
    assert np.all(gradients[0][2] != 0)
    for expected, actual in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_a_target_counts_as_right_where_no_id_is_likelier():
    right = np.argmax(LOGITS, -1) == np.asarray(TARGETS)
    np.testing.assert_array_equal(token_loss(LOGITS, TARGETS)[2], right)
    chunked = chunked_cross_entropy(X, TABLE, TARGETS, WEIGHTS, chunk=4)[2]
    assert float(chunked) == pytest.approx((right * np.asarray(WEIGHTS)).sum()) and right.any()


def test_nats_carry_no_gradient():
    gradient = jax.grad(lambda x: chunked_cross_entropy(x, TABLE, TARGETS, WEIGHTS, chunk=4)[1])(X)
    np.testing.assert_array_equal(gradient, 0.0)


def test_half_precision_hidden_states_are_summed_in_float32():
    half = X.astype(jnp.bfloat16), TABLE.astype(jnp.bfloat16)
    loss, *_ = chunked_cross_entropy(*half, TARGETS, WEIGHTS, chunk=4)
    assert loss.dtype == jnp.float32
    exact = whole(*(array.astype(jnp.float32) for array in half), TARGETS, WEIGHTS)[0]
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)
    gradients = jax.grad(lambda *a: chunked_cross_entropy(*a, TARGETS, WEIGHTS, chunk=4)[0], argnums=(0, 1))(*half)
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype("bfloat16")}


def test_the_table_s_gradient_may_exceed_float16_before_it_is_scaled():
    x, table = jnp.full((400, WIDTH), 200, jnp.float16), jnp.zeros((VOCAB, WIDTH), jnp.float16)
    targets, weights = jnp.zeros(400, jnp.int32), jnp.ones(400)
    mean = lambda table: chunked_cross_entropy(x, table, targets, weights, chunk=100)[0] / 400
    np.testing.assert_allclose(jax.grad(mean)(table)[0], -200 * (1 - 1 / VOCAB), rtol=1e-3)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_without_tokens_is_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk={chunk} must be a positive number of tokens"):
        chunked_cross_entropy(X, TABLE, TARGETS, WEIGHTS, chunk=chunk)


TOKENS, WIDE_VOCAB = 512, 4099
LARGE = (
    jax.ShapeDtypeStruct((TOKENS, WIDTH), jnp.float32),
    jax.ShapeDtypeStruct((WIDE_VOCAB, WIDTH), jnp.float32),
    jax.ShapeDtypeStruct((TOKENS,), jnp.int32),
    jax.ShapeDtypeStruct((TOKENS,), jnp.float32),
)


def compiled(loss):
    """Value and gradients, compiled for shapes whose logits outweigh all else."""
    return jax.jit(jax.value_and_grad(with_aux(loss), argnums=(0, 1), has_aux=True)).lower(*LARGE).compile()


@pytest.mark.usefixtures("optimized")
def test_the_compiled_program_has_an_eighth_of_the_temporaries_of_all_logits():
    chunked, plain = (
        compiled(loss).memory_analysis().temp_size_in_bytes
        for loss in (partial(chunked_cross_entropy, chunk=32), whole)
    )
    assert plain >= 4 * TOKENS * WIDE_VOCAB
    assert chunked <= plain / 8


@pytest.mark.usefixtures("optimized")
def test_the_compiled_program_holds_no_array_of_all_logits():
    all_logits = f"f32[{TOKENS},{WIDE_VOCAB}]"
    assert all_logits in compiled(whole).as_text()
    assert all_logits not in compiled(partial(chunked_cross_entropy, chunk=32)).as_text()


def test_a_split_batch_and_vocabulary_change_neither_value_nor_gradients():
    mesh = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
    rows, length, vocab = 4, 6, 14
    rng = np.random.default_rng(1)
    shapes = (rows, length, 4), (vocab, 4), (rows, length)
    x, table, weights = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    targets = jnp.asarray(rng.integers(vocab, size=(rows, length)), jnp.int32)
    axes = ("batch", None, None), ("vocab", "embed"), ("batch", None), ("batch", None)
    arrays = x, table, targets, weights
    loss = jax.value_and_grad(with_aux(partial(chunked_cross_entropy, chunk=8)), argnums=(0, 1), has_aux=True)
    expected = loss(*arrays)
    with jax.set_mesh(mesh):
        split = [jax.device_put(a, meshes.sharding(names, a.shape, mesh)) for a, names in zip(arrays, axes)]
        actual = jax.jit(loss)(*split)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_float64_has_the_gradient_of_all_logits_in_float64():
    with jax.enable_x64():
        x, table, weights = (jnp.asarray(np.asarray(array, np.float64)) for array in (X, TABLE, WEIGHTS))
        gradients = [
            jax.grad(lambda table: function(x, table, TARGETS, weights)[0])(table)
            for function in (partial(chunked_cross_entropy, chunk=5), whole)
        ]
        assert gradients[0].dtype == jnp.float64
        np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-12)
