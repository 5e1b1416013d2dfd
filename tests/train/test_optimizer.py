"""Each optimizer does what it is named for; all decay by path, clip by the global norm, and scale rates by path."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import tree
from arch.layers.weight import unbox
from arch.train import methods
from arch.train import optimizer as optimizers
from tests.train import tiny

STEADY = dict(learning_rate=0.5, warmup_steps=0, final_share=1.0)


def updated(cfg, params, gradients):
    """What one step adds to the parameters."""
    optimizer = cfg.make(10)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


MAMBA = ("in", "gate", "conv", "dt_down", "dt_up", "B", "C", "out")
MOE = ("router", "gate", "up", "down")
ATTENTION = ("query", "key", "value", "out")


@pytest.mark.parametrize("path", ["position/table", "layers/0/attention/relative", "layers/0/attention/sinks"])
def test_positions_and_sinks_do_not_decay(path):
    mask = optimizers.Config().decayed(tree.from_paths({path: 0, "layers/0/attention/query": 0}))
    assert tree.paths(mask) == {path: False, "layers/0/attention/query": True}


def test_matrices_decay_but_not_the_embedding_norms_biases_and_the_recurrence():
    cfg = tiny.config("text", "hybrid", **{"model.tie_embeddings": False}).model
    shapes = jax.eval_shape(cfg.make().init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    mask = tree.paths(optimizers.Config().decayed(unbox(shapes["params"])))
    assert {path for path, decays in mask.items() if decays} == {"embedding/output"} | {
        f"layers/scan_0_2/{path}"
        for path in (
            *(f"0/mamba/{name}" for name in MAMBA),
            *(f"0/moe/{name}" for name in MOE),
            *(f"1/attention/{name}" for name in ATTENTION),
        )
    }


def test_decay_removes_the_learning_rate_s_share_of_the_weight():
    params = {"up": jnp.full((3, 2), 4.0), "norm": jnp.full(3, 4.0)}
    update = updated(optimizers.Config(weight_decay=0.1, **STEADY), params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(update["up"], -0.5 * 0.1 * 4.0)
    np.testing.assert_array_equal(update["norm"], 0.0)


def test_the_first_step_without_decay_has_the_size_of_the_learning_rate():
    params = {"up": jnp.ones((3, 2))}
    cfg = optimizers.Config(weight_decay=0.0, clip_norm=0.0, **STEADY)
    update = updated(cfg, params, {"up": jnp.full((3, 2), -7.0)})
    np.testing.assert_allclose(update["up"], 0.5, rtol=1e-6)


@pytest.mark.parametrize(("clip", "seen"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_gradients_are_clipped_to_the_global_norm(clip, seen):
    optimizer = optimizers.Config(clip_norm=clip, b1=0.75).make(10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = optimizer.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(params), params)
    mean = optax.tree.get(state, "mu")
    assert np.hypot(mean["a"][0], mean["b"][0]) == pytest.approx(0.25 * seen, rel=1e-5)


KINDS = typing.get_args(methods.Kind)
AXES = {
    "up": ("embed", "hidden"),
    "norm": ("embed",),
    "layers/scan_0_1/0/query": ("layers", "embed", "heads", "head_dim"),
    "layers/scan_0_1/0/out": ("layers", "heads", "head_dim", "embed"),
}
RNG = np.random.default_rng(0)
GRADIENTS = tree.from_paths(
    {
        path: jnp.asarray(RNG.standard_normal(shape), jnp.float32)
        for path, shape in zip(AXES, [(5, 17), (5,), (2, 12, 3, 4), (2, 3, 4, 12)])
    }
)
PARAMS = jax.tree.map(lambda gradient: 0.5 + jnp.zeros_like(gradient), GRADIENTS)
BARE = dict(weight_decay=0.0, clip_norm=0.0, **STEADY)


def step_of(kind, gradients=GRADIENTS, **changes):
    """The direction of the first step, by path: learning rate 0.5 and sign taken off."""
    optimizer = optimizers.Config(kind=kind, **BARE | changes).make(10, lambda: AXES)
    update, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    return {path: np.asarray(leaf) / -0.5 for path, leaf in tree.paths(update).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_downhill_and_decays_by_path(kind):
    still = jax.tree.map(jnp.zeros_like, GRADIENTS)
    decayed = step_of(kind, still, weight_decay=0.1, no_decay=("norm",))
    for path, gradient in tree.paths(GRADIENTS).items():
        assert np.sum(step_of(kind)[path] * gradient) > 0
        np.testing.assert_allclose(decayed[path], 0.0 if path == "norm" else 0.1 * 0.5, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_sees_clipped_gradients(kind):
    """The state after the first step is that of gradients which were clipped before."""
    small = jax.tree.map(lambda gradient: gradient * 0.01 / optax.tree.norm(GRADIENTS), GRADIENTS)
    states = []
    for gradients, clip in ((GRADIENTS, 0.01), (small, 0.0)):
        optimizer = optimizers.Config(kind=kind, clip_norm=clip).make(10, lambda: AXES)
        states.append(jax.tree.leaves(optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[1]))
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-12)


# Means in bfloat16


def means(kind, moments):
    """The optimizer's state, without its counts: shapes."""
    optimizer = optimizers.Config(kind=kind, moments=moments).make(10, lambda: AXES)
    return [leaf for leaf in jax.tree.leaves(jax.eval_shape(optimizer.init, PARAMS)) if leaf.ndim]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adafactor"])
def test_means_in_bfloat16_take_half_the_bytes(kind):
    whole, half = (sum(leaf.size * leaf.dtype.itemsize for leaf in means(kind, m)) for m in ("float32", "bfloat16"))
    assert half == whole / 2 > 0


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.95), (0.5, optimizers.methods.MOST_DECAY)])
def test_means_in_bfloat16_stand_still_no_further_from_the_truth_than_is_said(b1, b2):
    """Under a gradient that jumps from 3 to 1 and stays there."""
    cfg = optimizers.Config(kind="adamw", moments="bfloat16", b1=b1, b2=b2, **BARE)
    optimizer, params = cfg.make(10), {"up": jnp.ones(7)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(400):
        _, state = update({"up": jnp.full(7, 3.0 if i < 50 else 1.0)}, state, params)
    for name, decay in (("mu", b1), ("nu", b2)):
        mean = np.asarray(optax.tree.get(state, name)["up"], np.float64)
        assert optax.tree.get(state, name)["up"].dtype == jnp.bfloat16
        np.testing.assert_allclose(mean, 1.0, rtol=2**-8 / (1 - decay) + 2**-8)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(b2=0.99), "b2=0.99 must be at most 0.984375 with moments='bfloat16'"),
        (dict(b1=0.999), "b1=0.999 must be at most 0.984375"),
        (dict(kind="adafactor"), "moments='bfloat16' must be 'float32' with kind='adafactor'"),
    ],
)
def test_means_that_would_stand_still_in_bfloat16_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        optimizers.Config(moments="bfloat16", **fields)


def test_lion_steps_by_the_sign_alone():
    for path, step in step_of("lion").items():
        np.testing.assert_array_equal(step, np.sign(tree.paths(GRADIENTS)[path]))


def test_sgd_sums_gradients_with_momentum():
    optimizer = optimizers.Config(kind="sgd", b1=0.75, **BARE).make(10)
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(3):
        update, state = optimizer.update(GRADIENTS, state, params)
    np.testing.assert_allclose(update["up"], -0.5 * (1 + 0.75 + 0.75**2) * GRADIENTS["up"], rtol=1e-6)


def adafactor_sizes(params, axes):
    """The shapes of what adafactor keeps, beside counts and placeholders."""
    state = jax.eval_shape(optimizers.Config(kind="adafactor").make(10, lambda: axes).init, params)
    return sorted(leaf.shape for leaf in jax.tree.leaves(state) if 130 in leaf.shape or 140 in leaf.shape)


def test_adafactor_keeps_a_row_and_a_column_of_a_large_matrix():
    params = {"up": jnp.zeros((130, 140)), "norm": jnp.zeros(130)}
    assert adafactor_sizes(params, AXES) == [(130,), (130,), (140,)]  # the norm's squares, and the matrix's two sides


def test_adafactor_keeps_a_row_and_a_column_of_each_expert_in_each_layer():
    axes = {"up": ("layers", "experts", "embed", "hidden")}
    assert adafactor_sizes({"up": jnp.zeros((2, 3, 130, 140))}, axes) == [(2, 3, 130), (2, 3, 140)]


def test_adafactor_factors_no_axis_of_layers():
    assert (129, 130, 3) in adafactor_sizes({"up": jnp.zeros((129, 130, 3))}, {"up": ("layers", "embed", "hidden")})


def adafactor_steps(params, gradients, axes):
    """The parameters after each of three steps."""
    optimizer = optimizers.Config(kind="adafactor", **BARE).make(10, lambda: axes)
    state, seen = optimizer.init(params), []
    for gradient in gradients:
        update, state = jax.jit(optimizer.update)({"up": gradient}, state, params)
        params = optax.apply_updates(params, update)
        seen.append(params["up"])
    return seen


ONES = [np.ones((2, 4, 4), np.float32)] * 3
RANDOM = list(np.float32(RNG.standard_normal((3, 2, 4, 4)) * np.array([1.0, 30.0]).reshape(2, 1, 1)))


@pytest.mark.parametrize("gradients", [ONES, RANDOM], ids=["ones", "random"])
@pytest.mark.parametrize("stack", ["layers", "experts"])
def test_adafactor_s_steps_do_not_depend_on_what_is_stacked(gradients, stack):
    weights = np.stack([np.full((4, 4), 1.0, np.float32), np.full((4, 4), 0.01, np.float32)])
    stacked = adafactor_steps({"up": jnp.asarray(weights)}, gradients, {"up": (stack, "embed", "hidden")})
    for i, weight in enumerate(weights):
        alone = adafactor_steps({"up": jnp.asarray(weight)}, [gradient[i] for gradient in gradients], AXES)
        for together, single in zip(stacked, alone, strict=True):
            np.testing.assert_allclose(together[i], single, rtol=1e-5, atol=1e-7)


def test_adafactor_takes_a_router_as_one_matrix():
    params, gradients = {"up": jnp.ones((3, 2))}, [np.float32([[1, 1], [2, 2], [3, 30]])]
    router, matrix = (adafactor_steps(params, gradients, {"up": ("embed", n)})[0] for n in ("experts", "hidden"))
    np.testing.assert_array_equal(router, matrix)


def test_stacked_layers_are_clipped_by_their_norm_together():
    optimizer = optimizers.Config(kind="sgd", **BARE | dict(clip_norm=1.0)).make(10)
    params, gradients = {"up": jnp.zeros((2, 1, 1))}, {"up": jnp.array([3.0, 4.0]).reshape(2, 1, 1)}
    update, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(update["up"].ravel(), -0.5 * np.array([0.6, 0.8]), rtol=1e-6)


def test_adafactor_s_step_has_the_learning_rate_s_share_of_the_weight_s_size():
    for step in step_of("adafactor").values():
        assert np.sqrt(np.mean(step**2)) == pytest.approx(0.5, rel=1e-3)


def matrices(path, step):
    """A weight as its layers' matrices."""
    return step[None] if path == "up" else step.reshape(2, 12, 12)


@pytest.mark.parametrize("path", ["up", "layers/scan_0_1/0/query", "layers/scan_0_1/0/out"])
def test_muon_s_step_has_equal_singular_values_and_the_gradient_s_directions(path):
    steps, gradients = (matrices(path, np.asarray(values[path])) for values in (step_of("muon"), tree.paths(GRADIENTS)))
    for step, gradient in zip(steps, gradients, strict=True):
        u, _, v = np.linalg.svd(gradient, full_matrices=False)
        values = u.T @ step @ v.T / (0.2 * np.sqrt(max(step.shape)))
        assert 0.5 < np.diag(values).min() and np.diag(values).max() < 1.5
        np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=0.02)


def test_muon_leaves_what_is_no_matrix_to_adam():
    np.testing.assert_allclose(np.abs(step_of("muon")["norm"]), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("axes", "sides"),
    {
        ("embed", "hidden"): ((0,), (1,)),
        ("heads", "head_dim", "embed"): ((0, 1), (2,)),
        ("layers", "experts", "embed", "hidden"): ((2,), (3,)),
        ("embed", "experts"): None,
        ("vocab", "embed"): None,
        ("heads", "head_dim"): None,
        ("layers", "embed"): None,
        ("hidden", "state"): None,
    }.items(),
)
def test_a_matrix_maps_from_or_to_the_residual_stream(axes, sides):
    assert methods.matrix_sides(axes) == sides


@pytest.mark.parametrize("kind", ["muon", "adafactor"])
def test_muon_and_adafactor_without_axes_are_refused(kind):
    with pytest.raises(ValueError, match=f"kind='{kind}' must be given the axes"):
        optimizers.Config(kind=kind).make(10)


def test_factors_of_the_learning_rate_go_by_canonical_path():
    factors = (("layers/1/out", 0.0), ("layers/1/", 0.25), ("norm", 3.0))
    scaled, plain = step_of("adamw", rate_factors=factors), step_of("adamw")
    for path, factor in {"up": 1.0, "norm": 3.0}.items():
        np.testing.assert_allclose(scaled[path], factor * plain[path], rtol=1e-6)
    for name, last in {"query": 0.25, "out": 0.0}.items():
        path = f"layers/scan_0_1/0/{name}"
        expected = plain[path] * np.array([1.0, last]).reshape(2, 1, 1, 1)
        np.testing.assert_allclose(scaled[path], expected, rtol=1e-6)


@pytest.mark.parametrize("field", ["b1", "b2"])
def test_a_mean_that_forgets_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}=1.0 must be below 1"):
        optimizers.Config(**{field: 1.0})


@pytest.mark.parametrize("field", [dict(no_decay=("(",)), dict(rate_factors=(("(", 1.0),))])
def test_a_pattern_that_is_no_regular_expression_is_refused(field):
    with pytest.raises(ValueError, match=rf"{next(iter(field))} holds '\(', which must be a regular expression"):
        optimizers.Config(**field)
