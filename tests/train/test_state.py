"""The state lies on the mesh as the plan says from its first moment on."""

import re

import jax
import numpy as np
import pytest

from arch import tree
from arch.sharding import mesh as meshes
from arch.train import state as states
from tests.train import tiny

LARGE = 500
"""Values from which on a weight of the tiny hybrid must be split."""


class Planned:
    """The tiny hybrid's plan on a mesh, and the compiled initialisation of its state."""

    def __init__(self, data, fsdp, tensor):
        cfg = tiny.config("text", "hybrid")
        self.mesh = meshes.make(meshes.Config(data=data, fsdp=fsdp, tensor=tensor))
        self.model, self.optimizer = cfg.model.make(), cfg.optimizer.make(10)
        with jax.set_mesh(self.mesh):
            beside = states.Beside(average=True, loss_scale=8.0)
            self.plan = states.plan(self.model, self.optimizer, self.mesh, beside)
            init = lambda key: states.init(self.model, self.optimizer, self.plan, key)
            self.compiled = jax.jit(init).lower(jax.random.key(0)).compile()
            self.state = self.compiled(jax.random.key(0))


@pytest.fixture(scope="module", params=[pytest.param((1, 8, 1), marks=pytest.mark.slow), (2, 2, 2)], ids=str)
def planned(request, quick):
    return Planned(*request.param)


def test_the_compiled_initialisation_has_the_plan_s_shardings(planned):
    leaves = jax.tree.leaves(planned.plan.abstract)
    made = jax.tree.leaves(planned.compiled.output_shardings)
    assert all(is_.is_equivalent_to(leaf.sharding, leaf.ndim) for leaf, is_ in zip(leaves, made, strict=True))


def test_no_large_weight_or_moment_is_whole_on_one_device(planned):
    whole = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(planned.state)
        if leaf.size >= LARGE and leaf.addressable_shards[0].data.size == leaf.size
    ]
    assert not whole
    assert sum(leaf.size >= LARGE for leaf in jax.tree.leaves(planned.state)) > 20


def test_no_large_weight_is_whole_while_it_is_made(planned):
    """The program of one device holds no array of a large weight's whole shape."""
    shapes = {leaf.shape for leaf in jax.tree.leaves(planned.plan.abstract.params) if leaf.size >= LARGE}
    found = {tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", planned.compiled.as_text())}
    assert found and not shapes & found


def test_moments_lie_where_their_weights_lie(planned):
    weights = tree.paths(planned.state.params)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(planned.state.opt_state)
    }
    for moment in ("mu", "nu"):
        for path, weight in weights.items():
            (leaf,) = [leaf for name, leaf in flat.items() if name.endswith(f"{moment}/{path}")]
            assert leaf.sharding.is_equivalent_to(weight.sharding, leaf.ndim), path


def test_the_average_begins_as_the_weights_and_lies_where_they_lie(planned):
    average = tree.paths(planned.state.average)
    for path, weight in tree.paths(planned.state.params).items():
        assert average[path].sharding.is_equivalent_to(weight.sharding, weight.ndim), path
        np.testing.assert_array_equal(average[path], weight, err_msg=path)


def test_initial_values_do_not_depend_on_the_mesh(planned, alone):
    for path, weight in tree.paths(planned.state.params).items():
        np.testing.assert_allclose(weight, alone[path], rtol=1e-6, atol=1e-7, err_msg=path)


@pytest.fixture(scope="module")
def alone(quick):
    """The initial parameters, made on one device."""
    cfg = tiny.config("text", "hybrid")
    mesh = meshes.make(meshes.Config(), jax.devices()[:1])
    optimizer, model = cfg.optimizer.make(10), cfg.model.make()
    state = states.init(model, optimizer, states.plan(model, optimizer, mesh), jax.random.key(0))
    return {path: np.asarray(leaf) for path, leaf in tree.paths(state.params).items()}


def test_a_state_around_given_parameters_begins_at_step_0_where_the_plan_says(planned):
    with jax.set_mesh(planned.mesh):
        state = states.around(planned.state.params, planned.optimizer, planned.plan)
    assert int(state.step) == 0
    for leaf, twin in zip(jax.tree.leaves(planned.plan.abstract), jax.tree.leaves(state), strict=True):
        assert twin.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


def test_an_array_of_the_optimizer_has_the_axes_of_the_parameter_that_ends_its_path_and_of_no_other():
    axes = {"embedding/table": ("vocab", "embed"), "scale": ("embed",)}
    assert states.axes_of("opt_state/0/mu/embedding/table", 2, axes) == ("vocab", "embed")
    assert states.axes_of("opt_state/0/mu/type_embedding/table", 2, axes) is None
    assert states.axes_of("opt_state/0/mu/embedding/table", 0, axes) is None
