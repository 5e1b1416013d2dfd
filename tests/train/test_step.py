"""The step computes the loss that it says, adds micro-batches up exactly, and keeps what it must keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import config, tree
from arch.layers import token_loss
from arch.layers.contract import Context
from arch.models import decoder
from arch.sharding import mesh as meshes
from arch.train import state as states
from arch.train.step import eval_step, train_step

ROWS, TOKENS, VOCAB = 4, 11, 13
TOKEN_BYTES = np.arange(VOCAB) % 3
MOE = dict(
    num_experts=3, top_k=1, renormalize=False, hidden_dim=5, balance_weight=0.3, z_weight=0.2, bias_rate=0.125
)
MODEL = dict(
    vocab_size=VOCAB,
    embed_dim=6,
    layers=dict(
        pattern=(dict(sublayers=(dict(name="attention", num_heads=2, head_dim=4), dict(name="moe", **MOE))),),
        repeats=2,
    ),
)


def model_config(dropout=0.0, **changes):
    cfg = config.from_dict(decoder.Config, MODEL | changes)
    pattern = tuple(block.replace(dropout=dropout) for block in cfg.layers.pattern)
    return cfg.replace(layers=cfg.layers.replace(pattern=pattern))


class World:
    """A model with its state on one device, and its compiled step of plain gradient descent."""

    def __init__(self, cfg, micro_batches=1, loss=token_loss.Config(), beside=states.Beside()):
        self.cfg, self.model, self.traces = cfg, cfg.make(), 0
        optimizer = optax.sgd(1.0)
        mesh = meshes.make(meshes.Config(), jax.devices()[:1])
        self.plan = states.plan(self.model, optimizer, mesh, beside)
        self.state = states.init(self.model, optimizer, self.plan, jax.random.key(1))
        step = train_step(
            self.model, cfg, optimizer, self.plan.trainable, TOKEN_BYTES, micro_batches=micro_batches, loss=loss
        )

        def traced(state, batch, key):
            self.traces += 1
            return step(state, batch, key)

        self.function = step
        self.step = jax.jit(traced)


world_of = functools.cache(World)


@pytest.fixture(scope="module")
def batch():
    """Packed rows with unequal weights: row 1 has hardly any targets, row 3 ends in padding."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(VOCAB, size=(2, ROWS, TOKENS))
    segments = np.array([[1] * 11, [1] * 4 + [2] * 7, [1] * 2 + [2] * 3 + [3] * 6, [1] * 5 + [2] * 2 + [0] * 4])
    starts = np.concatenate([np.ones((ROWS, 1)), np.diff(segments, axis=1)], axis=1) != 0
    places = np.arange(TOKENS)
    positions = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    weights = (segments > 0) * rng.choice([0.0, 0.5, 1.0], size=segments.shape)
    weights[1, 2:] = 0
    values = dict(tokens=tokens[0], targets=tokens[1], segment_ids=segments, positions=positions)
    values = {name: jnp.asarray(value, jnp.int32) for name, value in values.items()}
    return values | {"weights": jnp.asarray(weights, jnp.float32)}


@pytest.fixture(scope="module")
def world(quick):
    return world_of(model_config())


@pytest.fixture(scope="module")
def whole(world, batch):
    """(state, metrics) after one step."""
    return world.step(world.state, batch, jax.random.key(0))


@pytest.fixture(scope="module")
def forward(world, batch):
    """What the model itself says of the batch."""
    context = Context(positions=batch["positions"], segment_ids=batch["segment_ids"])
    return jax.jit(world.model.apply)({"params": world.state.params}, batch["tokens"], context)


@pytest.fixture(scope="module")
def nats(forward, batch):
    """-log softmax(logits)[target] of each token, in float64."""
    logits = np.asarray(forward.x, np.float64)
    picked = np.take_along_axis(logits, np.asarray(batch["targets"])[..., None], axis=-1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - picked


def test_the_loss_is_the_weighted_mean_of_nats_and_the_layers_losses(whole, forward, nats, batch):
    weights = np.asarray(batch["weights"], np.float64)
    own = sum(float(value) for value in forward.aux.losses.values())
    assert own > 0.3
    assert float(whole[1]["loss"]) == pytest.approx((nats * weights).sum() / weights.sum() + own, rel=1e-6)


def test_bits_per_byte_counts_the_bytes_of_the_targets(whole, nats, batch):
    weights = np.asarray(batch["weights"], np.float64)
    num_bytes = (TOKEN_BYTES[np.asarray(batch["targets"])] * weights).sum()
    assert float(whole[1]["bits_per_byte"]) == pytest.approx((nats * weights).sum() / np.log(2) / num_bytes, rel=1e-6)


def test_an_evaluation_adds_up_nats_weights_and_bytes(world, nats, batch):
    sums = jax.jit(eval_step(world.model, TOKEN_BYTES))(world.state.params, batch)
    weights = np.asarray(batch["weights"], np.float64)
    expected = [(nats * weights).sum(), weights.sum(), (TOKEN_BYTES[np.asarray(batch["targets"])] * weights).sum()]
    actual = [sums["terms"]["tokens"]["nats"], sums["terms"]["tokens"]["weight"], sums["bytes"]]
    np.testing.assert_allclose(list(map(float, actual)), expected, rtol=1e-6)


def test_norms_are_those_of_the_gradient_and_of_the_trained_parameters(world, whole):
    before, after = tree.paths(world.state.params), tree.paths(whole[0].params)
    trained = [path for path, trains in tree.paths(world.plan.trainable).items() if trains]
    norm = lambda values: np.sqrt(sum(np.sum(np.square(np.asarray(value, np.float64))) for value in values))
    gradient = norm([before[path] - after[path] for path in trained])  # the learning rate is 1
    assert float(whole[1]["gradient_norm"]) == pytest.approx(gradient, rel=1e-4)
    assert float(whole[1]["parameter_norm"]) == pytest.approx(norm([after[path] for path in trained]), rel=1e-5)


@pytest.mark.parametrize("micro_batches", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_micro_batches_equal_the_whole_batch(world, whole, batch, micro_batches):
    parts = world_of(world.cfg, micro_batches)
    state, metrics = parts.step(world.state, batch, jax.random.key(0))
    expected = tree.paths({"params": whole[0].params, "metrics": whole[1]})
    actual = tree.paths({"params": state.params, "metrics": metrics})
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=2e-5, atol=1e-6, err_msg=path)


def test_a_loss_scale_that_nothing_overflows_changes_nothing(world, whole, batch):
    scaled = World(world.cfg, 2, beside=states.Beside(loss_scale=1024.0))
    state, metrics = scaled.step(scaled.state, batch, jax.random.key(0))
    assert metrics["loss_scale"] == 1024 and metrics["skipped_steps"] == 0
    expected = tree.paths({"params": whole[0].params, "metrics": whole[1]})
    actual = tree.paths({"params": state.params, "metrics": metrics})
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=2e-5, atol=1e-6, err_msg=path)


def test_the_balance_loss_reaches_the_router_through_micro_batches(world, batch):
    """Without targets nothing but the layers' own losses is left."""
    parts = world_of(world.cfg, 2)
    state, metrics = parts.step(world.state, batch | {"weights": jnp.zeros((ROWS, TOKENS))}, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(float(metrics["balance"] + metrics["router_z"]), rel=1e-6)
    moved = tree.paths(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.params, world.state.params))
    assert moved["layers/scan_0_1/0/moe/router"]


SMOOTH = token_loss.Config(label_smoothing=0.2, z_weight=0.1)


def test_smoothing_and_z_loss_change_the_loss_but_not_the_nats(world, whole, forward, batch):
    smooth = World(world.cfg, loss=SMOOTH)
    _, metrics = smooth.step(world.state, batch, jax.random.key(0))
    logits, weights = np.asarray(forward.x, np.float64), np.asarray(batch["weights"], np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, np.asarray(batch["targets"])[..., None], axis=-1)[..., 0]
    tokens = 0.8 * (log_z - picked) + 0.2 * (log_z - logits.mean(-1)) + 0.1 * log_z**2
    own = sum(float(value) for value in forward.aux.losses.values())
    assert float(metrics["loss"]) == pytest.approx((tokens * weights).sum() / weights.sum() + own, rel=1e-6)
    assert float(metrics["nats_per_token"]) == pytest.approx(float(whole[1]["nats_per_token"]), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_chunks_of_tokens_equal_the_whole_batch(world, batch, tied):
    cfg = world.cfg.replace(tie_embeddings=tied, logit_soft_cap=1.5, logit_scale=3.0)
    plain, chunked = World(cfg, 2, SMOOTH), World(cfg, 2, SMOOTH.replace(chunk_tokens=5))
    results = [w.step(plain.state, batch, jax.random.key(0)) for w in (plain, chunked)]
    expected, actual = (tree.paths({"params": state.params, "metrics": metrics}) for state, metrics in results)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=2e-5, atol=2e-6, err_msg=path)


def test_an_evaluation_in_chunks_is_the_one_without(world, batch):
    steps = (eval_step(world.model, TOKEN_BYTES, loss=token_loss.Config(chunk_tokens=n)) for n in (0, 7))
    whole, chunks = (jax.jit(step)(world.state.params, batch) for step in steps)
    assert tree.paths(jax.tree.map(float, chunks)) == pytest.approx(tree.paths(jax.tree.map(float, whole)), rel=1e-6)


def test_accuracy_counts_the_targets_that_are_likeliest(world, forward, batch):
    likeliest, weights = jnp.argmax(forward.x, -1), np.asarray(batch["weights"])
    targets = jnp.where(jnp.arange(TOKENS) % 3 == 0, likeliest, (likeliest + 1) % VOCAB)
    _, metrics = world.step(world.state, batch | {"targets": targets}, jax.random.key(0))
    assert float(metrics["accuracy"]) == pytest.approx(weights[:, ::3].sum() / weights.sum(), rel=1e-6)


def test_leaves_that_are_not_trained_have_no_optimizer_state():
    cfg = model_config()
    plan = states.plan(cfg.make(), optax.adam(1.0), meshes.make(meshes.Config(), jax.devices()[:1]))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(plan.abstract.opt_state)]
    assert any("router" in name for name in names) and not any("router_bias" in name for name in names)


def test_leaves_that_are_not_trained_follow_their_own_rule(world, whole):
    bias = tree.paths(whole[0].params)["layers/scan_0_1/0/moe/router_bias"]
    loads = [whole[1]["stats"][f"layers/{layer}/moe/expert_load"] for layer in range(2)]
    expected = [0.125 * np.sign(np.mean(load) - load) for load in loads]
    np.testing.assert_array_equal(bias, expected)


def test_the_second_step_is_not_traced_again(world, whole, batch):
    before = world.traces
    state, _ = world.step(whole[0], batch, jax.random.key(0))
    assert world.traces == before > 0 and int(state.step) == 2


def test_a_donated_state_is_given_up(world, batch):
    copy = jax.tree.map(jnp.copy, world.state)
    state, _ = jax.jit(world.function, donate_argnums=0)(copy, batch, jax.random.key(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(copy.params))
    assert jax.tree.structure(state) == jax.tree.structure(world.state)


@pytest.fixture(scope="module")
def half(quick):
    """The same model, computing in bfloat16."""
    return world_of(model_config(dtype="bfloat16"))


def test_bfloat16_keeps_parameters_and_gradients_in_float32(half, batch):
    state, _ = jax.eval_shape(half.function, half.state, batch, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(half.state.params)} == {jnp.dtype("float32")}


def test_bfloat16_computes_its_products_in_bfloat16_and_the_loss_in_float32(half, world, batch, whole):
    _, metrics = half.step(world.state, batch, jax.random.key(0))
    assert metrics["loss"].dtype == jnp.float32
    assert 0 < abs(float(metrics["loss"] - whole[1]["loss"])) < 0.02


@pytest.fixture(scope="module")
def dropping(quick):
    """The same model with dropout."""
    return world_of(model_config(dropout=0.5))


def loss_of(world, batch, *, seed=0, step=0):
    state = states.TrainState(jnp.int32(step), world.state.params, world.state.opt_state)
    return float(world.step(state, batch, jax.random.key(seed))[1]["loss"])


def test_dropout_is_a_function_of_seed_and_step(dropping, batch):
    first = loss_of(dropping, batch)
    assert loss_of(dropping, batch) == first
    assert len({first, loss_of(dropping, batch, step=1), loss_of(dropping, batch, seed=1)}) == 3


def test_an_evaluation_drops_nothing(dropping, world, batch):
    evaluate = lambda world: jax.jit(eval_step(world.model, TOKEN_BYTES))(dropping.state.params, batch)["terms"]
    assert float(evaluate(dropping)["tokens"]["nats"]) == float(evaluate(world)["tokens"]["nats"])
