"""One step of each task: its objective is the published loss, and neither parts, chunks nor a mesh change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import tree
from arch.data import tokenized
from arch.layers.contract import Context
from arch.ops.loss import mean_cross_entropy, pretraining
from arch.sharding import mesh as meshes
from arch.train import state as states
from arch.train.objective import CONTEXT, objective, totals
from arch.train.step import train_step
from tests.train import tiny_tasks

pytestmark = pytest.mark.usefixtures("quick")


def kinds(fast: str, slow: str) -> list:
    """The kinds of a test, one of which costs too much for every day."""
    return [fast, pytest.param(slow, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def runs(quick, text, tmp_path_factory):
    """By kind: the config and a batch."""
    out = {}
    for kind in tiny_tasks.RUNS:
        cfg = tiny_tasks.config(text, kind)
        data = tokenized.prepare(cfg.data, tmp_path_factory.mktemp(kind) / "data")
        out[kind] = cfg, tiny_tasks.batches(cfg, data)(3)
    return out


@functools.cache
def prepared(model_cfg, shape=(1, 1, 1)):
    """The model, plain gradient descent, the mesh and the state on it."""
    model, optimizer = model_cfg.make(), optax.sgd(1.0)
    sizes = dict(zip(("data", "fsdp", "expert"), shape))
    mesh = meshes.make(meshes.Config(**sizes), jax.devices()[: np.prod(shape)])
    with jax.set_mesh(mesh):
        plan = states.plan(model, optimizer, mesh)
        return model, optimizer, mesh, plan, states.init(model, optimizer, plan, jax.random.key(1))


def stepped(cfg, batch, shape=(1, 1, 1)):
    """Metrics and parameters after one step, by path."""
    model, optimizer, mesh, plan, state = prepared(cfg.model, shape)
    how = dict(task=cfg.task, loss=cfg.loss, micro_batches=cfg.micro_batches)
    step = jax.jit(train_step(model, cfg.model, optimizer, plan.trainable, np.ones(264), **how))
    with jax.set_mesh(mesh):
        state, metrics = step(state, meshes.global_batch(batch, mesh), jax.random.key(0))
    return tree.paths(jax.device_get({"params": state.params, "metrics": metrics}))


@pytest.fixture(scope="module")
def plain(runs):
    """The step of a kind on one device, whole."""
    return functools.cache(lambda kind: stepped(*runs[kind]))


def close(actual, expected):
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, rtol=2e-5, atol=2e-6, err_msg=path)


def logits(cfg, batch):
    """What the model itself says of the batch."""
    model, *_, state = prepared(cfg.model)
    context = Context(**{name: jnp.asarray(batch[name]) for name in CONTEXT if name in batch})
    if "source" not in batch:
        return jax.jit(model.apply)({"params": state.params}, batch["tokens"], context)
    source = Context(positions=jnp.asarray(batch["source_positions"]), valid=jnp.asarray(batch["source_valid"]))
    pair = functools.partial(model.apply, method="pair")
    return jax.jit(pair)({"params": state.params}, batch["source"], batch["tokens"], source, context)


@pytest.mark.parametrize("kind", tiny_tasks.RUNS)
def test_the_objective_is_the_published_loss(kind, runs, plain):
    cfg, batch = runs[kind]
    out, labels = logits(cfg, batch), jnp.where(batch["weights"] > 0, batch["targets"], -100)
    if kind == "pairs":
        expected = pretraining(out.x, labels, out.shared["next_sentence"], jnp.asarray(batch["next_sentence"]))
    else:
        expected = mean_cross_entropy(out.x, labels)
    assert float(plain(kind)["metrics/loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_of_two_terms_each_has_its_own_mean_and_accuracy(runs, plain):
    metrics = plain("pairs")
    both = metrics["metrics/nats_per_token"] + metrics["metrics/next_sentence_nats"]
    assert metrics["metrics/loss"] == pytest.approx(both, rel=1e-6)
    cfg, batch = runs["pairs"]
    said = np.argmax(logits(cfg, batch).shared["next_sentence"], -1)
    assert metrics["metrics/next_sentence_accuracy"] == np.mean(said == batch["next_sentence"])


@pytest.mark.parametrize("kind", kinds("pairs", "spans"))
def test_micro_batches_equal_the_batch(kind, runs, plain):
    cfg, batch = runs[kind]
    assert len({row.sum() for row in batch["weights"]}) > 1 or kind == "spans"  # the parts weigh differently
    close(stepped(cfg.replace(micro_batches=4), batch), plain(kind))


@pytest.mark.parametrize("kind", kinds("spans", "pairs"))
def test_a_mesh_that_splits_everything_equals_one_device(kind, runs, plain):
    close(stepped(*runs[kind], shape=(2, 2, 2)), plain(kind))


@pytest.mark.parametrize("kind", kinds("pairs", "spans"))
def test_chunks_of_tokens_with_a_split_vocabulary_equal_all_logits(kind, runs, plain):
    cfg, batch = runs[kind]
    close(stepped(cfg.replace(loss=cfg.loss.replace(chunk_tokens=7)), batch, shape=(2, 2, 2)), plain(kind))


@pytest.mark.parametrize("kind", ["pairs", "spans"])
def test_a_row_of_padding_changes_nothing(kind, runs):
    """As a validation split ends in them."""
    cfg, batch = runs[kind]
    model, *_, state = prepared(cfg.model)
    padded = {name: np.concatenate([rows, np.zeros_like(rows[:2])]) for name, rows in batch.items()}
    value = jax.jit(
        lambda batch: objective(model, state.params, batch, totals(cfg.task, batch), None, task=cfg.task)[0]
    )
    assert float(value(padded)) == pytest.approx(float(value(batch)), rel=1e-6)


@pytest.mark.parametrize("kind", kinds("spans", "masked"))
def test_chunks_of_tokens_need_no_memory_for_all_logits(kind, runs):
    cfg, batch = runs[kind]
    model_cfg, vocab = cfg.model.replace(vocab_size=8009), 8009
    model = model_cfg.make()
    params = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 2), jnp.int32))["params"], jax.random.key(0))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), params)

    def temporary(chunk):
        how = dict(task=cfg.task, loss=cfg.loss.replace(chunk_tokens=chunk))
        value = lambda params, batch: objective(model, params, batch, totals(cfg.task, batch), None, **how)[0]
        return jax.jit(jax.grad(value)).lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    predicted = int(np.count_nonzero(batch["weights"]))
    assert temporary(0) - temporary(4) > 4 * 0.8 * predicted * vocab
