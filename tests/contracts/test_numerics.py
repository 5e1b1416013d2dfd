"""Shapes, types, compilation, gradients and placement of every sublayer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.ffns import moe
from arch.layers.weight import axes, unbox
from arch.mixers import attention, mamba
from arch.sharding import mesh as meshes
from tests.contracts.sublayers import FFNS, MIXERS, TOKENS, Case, context, holds, inputs, jit

ROWS, EMBED = 4, 12  # so that each of the mesh's axes splits something
EXAMPLES = [pytest.param(name, marks=[pytest.mark.slow] * (not name.endswith("_0"))) for name in MIXERS | FFNS]
mostly_slow = pytest.mark.parametrize("case", EXAMPLES, indirect=True)
"""For what one example of each file shows well: the others are slow."""


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_the_result_has_the_shape_and_type_of_the_input(case, dtype):
    x = inputs().astype(dtype)
    out = jax.eval_shape(lambda x: case.apply(case.params, x, context(x)).x, x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)


def test_losses_are_float32_scalars(case):
    aux = case(inputs(), context(inputs())).aux
    assert all((loss.shape, loss.dtype) == ((), jnp.float32) for loss in aux.losses.values())


@pytest.mark.slow
@mostly_slow
def test_compiled_equals_eager(case):
    x = inputs()
    assert holds(case.apply(case.params, x, context(x)).x, case.full)


def test_a_second_pass_compiles_nothing(case):
    case(inputs(), context(inputs()))
    before = case.traces
    case(inputs(seed=5), context(inputs(seed=5), start=2))
    assert case.traces == before


def test_steps_after_the_first_compile_nothing(case):
    _, cache = case.chunks([1])
    before = case.traces
    case.chunks([1] * (TOKENS - 1), cache)
    assert case.traces == before


@mostly_slow
def test_initial_values_are_finite(case):
    params = unbox(jit(case.module.init)(jax.random.key(3), inputs(), context(inputs()))).get("params", {})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def _objective(case, params, x, given):
    out = case.apply(params, x, given)
    weigh = jnp.cos(jnp.arange(out.x.size, dtype=jnp.float32)).reshape(out.x.shape)
    return jnp.sum(out.x * weigh) + sum(out.aux.losses.values(), start=0.0), out.x


def _gradients(case, x, params=None):
    function = jax.grad(lambda params, x: _objective(case, params, x, context(x)), argnums=(0, 1), has_aux=True)
    (by_params, by_x), out = jit(function)(case.params if params is None else params, x)
    return out, by_params, by_x


@functools.cache
def _on_one_device(cfg):
    """(a case of sizes that the mesh's axes divide, its output and gradients), compiled once for two tests."""
    case = Case(cfg, EMBED)
    return case, _gradients(case, inputs(ROWS, TOKENS, EMBED))


def test_gradients_are_finite_and_reach_every_trained_weight(case):
    _, (_, by_params, by_x) = _on_one_device(case.cfg)
    trained = tree.paths(case.trainable)
    for path, gradient in (tree.paths(by_params) | {"x": by_x}).items():
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient != 0) == trained.get(path, True), path


@mostly_slow
def test_bfloat16_is_near_float32(case):
    half = inputs().astype(jnp.bfloat16)
    wide = half.astype(jnp.float32)
    assert holds(case(half, context(half)).x, case(wide, context(wide)).x, 0.03)


def test_params_are_the_only_collection(case):
    assert set(case.variables) <= {"params"}


def test_every_weight_names_each_of_its_axes_by_a_rule(case):
    shapes = tree.paths(unbox(case.boxes))
    for path, names in tree.paths(axes(case.boxes)).items():
        assert len(names) == shapes[path].ndim and set(names) <= meshes.RULES.keys(), path


def test_weights_are_kept_in_float32(case):
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(unbox(case.boxes)))


def _on_mesh(case):
    """Output and gradients with weights and rows placed by the rules on a (2, 2, 2) mesh."""
    mesh = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
    place = lambda names, leaf: jax.device_put(leaf, meshes.sharding(names, leaf.shape, mesh))
    with jax.set_mesh(mesh):
        params = jax.tree.map(place, axes(case.boxes), case.params, is_leaf=lambda names: isinstance(names, tuple))
        x = place(("batch", None, None), inputs(ROWS, TOKENS, EMBED))
        return _gradients(case, x, params)


def _assert_same_on_mesh(cfg):
    case, expected = _on_one_device(cfg)
    actual = _on_mesh(case)
    flat = lambda results: tree.paths({"out": results[0], "params": results[1], "x": results[2]})
    for path, value in flat(expected).items():
        assert holds(flat(actual)[path], value), path


@mostly_slow
def test_values_and_gradients_are_the_same_on_a_mesh(case):
    _assert_same_on_mesh(case.cfg)


DIVISIBLE = (
    attention.Config(num_heads=4, num_kv_heads=2, head_dim=3, bias="all"),
    mamba.Config(inner_dim=10, state_dim=3),
    moe.Config(num_experts=3, top_k=2, hidden_dim=10),
)


@pytest.mark.parametrize("cfg", DIVISIBLE, ids=lambda cfg: cfg.label)
def test_a_divisible_sublayer_is_split_and_keeps_its_values(cfg):
    case = Case(cfg, EMBED)
    mesh = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
    shapes = tree.paths(unbox(case.boxes))
    specs = [meshes.spec(names, shapes[path].shape, mesh) for path, names in tree.paths(axes(case.boxes)).items()]
    used = {axis for spec in specs for axis in spec if axis}
    assert used == {"fsdp", "tensor"}
    _assert_same_on_mesh(cfg)
