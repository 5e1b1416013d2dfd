"""A linear map has the values and gradients of the matrix product, for even and odd widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.linear import linear


@pytest.mark.parametrize("f", [7, 4], ids=["wider", "narrower"])
def test_value_and_gradients_are_those_of_the_product(f):
    rng = np.random.default_rng(0)
    x, kernel, dy = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 3, 5), (5, f), (2, 3, f)))
    out, vjp = jax.vjp(linear, x, kernel)
    expected, expected_vjp = jax.vjp(jnp.matmul, x, kernel)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    for mine, theirs in zip(vjp(dy), expected_vjp(dy), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_several_axes_are_summed_over_or_come_out():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 3, 5, 7), (5, 7, 2, 3)))
    for given, axes in (((x, kernel), 2), ((x[..., 0], kernel[:, 0]), 1)):
        out, vjp = jax.vjp(lambda *both: linear(*both, axes=axes), *given)
        expected, expected_vjp = jax.vjp(lambda *both: jnp.tensordot(*both, axes), *given)
        np.testing.assert_allclose(out, expected, atol=3e-6)
        for mine, theirs in zip(vjp(out), expected_vjp(out), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=3e-5)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("d", "f"), [(256, 512), (512, 256)], ids=["wider", "narrower"])
def test_the_gradient_of_the_kernel_is_the_fast_product_on_cpu(d, f):
    """XLA:CPU's slow product is an instruction `dot` of its own; the fast ones are inside fusions."""
    x, kernel, dy = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 256, d), (d, f), (2, 256, f)))

    def gradient(function):
        compiled = jax.jit(lambda x, kernel, dy: jax.vjp(lambda kernel: function(x, kernel), kernel)[1](dy))
        return compiled.lower(x, kernel, dy).compile().as_text().split("ENTRY")[1]

    if " dot(" not in gradient(jnp.matmul):
        pytest.skip("this XLA has no such products")
    assert " dot(" not in gradient(linear)


def test_elsewhere_it_is_the_plain_product():
    x, kernel = jnp.ones((3, 4)), jnp.ones((4, 6))
    jaxpr = jax.make_jaxpr(lambda *arrays: linear(*arrays, platform="gpu"))(x, kernel)
    assert [eqn.outvars[0].aval.shape for eqn in jaxpr.eqns] == [(3, 6)]


def test_the_backward_pass_keeps_nothing_but_the_arguments():
    x, kernel = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 6), jnp.float32)
    kept = jax.eval_shape(lambda *given: jax.vjp(linear, *given)[1], x, kernel)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(kept)) == [(3, 5), (5, 6)]
