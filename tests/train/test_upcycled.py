"""A run whose `init_from` is a dense one, with `upcycle`: the first loss is that model's; what cannot be is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import config, tree
from arch.data import dataset
from arch.sharding import mesh as meshes
from arch.train import state as states
from arch.train.checkpoint import Checkpoints
from arch.train.objective import objective, totals
from arch.train.start import StartError, start
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("quick")
MLP = dict(sublayers=(dict(name="mlp", hidden_dim=16),))
EXPERTS = dict(name="moe", num_experts=3, top_k=2, hidden_dim=16, gated=False, activation="gelu")
MOE = dict(sublayers=(EXPERTS,))
DENSE = {"model.layers": dict(pattern=(MLP,), repeats=3)}
SPARSE = {"model.layers": dict(prefix=(MLP,), pattern=(MOE,), repeats=2), "upcycle": True}


@pytest.fixture(scope="module")
def dense(quick, text, tmp_path_factory):
    """The workdir of a dense run, its setup and its parameters."""
    workdir = tmp_path_factory.mktemp("dense")
    setup = tiny.prepare(tiny.config(text, **DENSE), workdir)
    with jax.set_mesh(setup.mesh):
        state = states.init(setup.model, setup.optimizer, setup.plan, jax.random.key(5))
    record = {"config": config.to_dict(setup.cfg), "config_format_version": config.FORMAT_VERSION}
    extra = {"data_fingerprint": setup.data.fingerprint, "evaluation": {}} | record
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(3, state, extra=extra)
    return workdir, setup, state.params


def begun(text, workdir, dense, devices=None, **changes):
    """The setup and the parameters with which a run begins."""
    cfg = tiny.config(text, **SPARSE | {"init_from": str(dense[0])} | changes)
    setup = tiny.prepare(cfg, workdir, devices)
    with jax.set_mesh(setup.mesh), Checkpoints(workdir / "checkpoints") as checkpoints:
        return setup, start(setup, checkpoints)[0].params


def nats(setup, params) -> float:
    """The loss of the first batch's tokens, without the routers' losses."""
    batch = meshes.global_batch(dataset.without_ids(setup.dataset("train")[0]), setup.mesh)
    task = setup.cfg.task
    of = functools.partial(objective, setup.model, task=task)
    with jax.set_mesh(setup.mesh):
        terms = jax.jit(lambda params, batch: of(params, batch, totals(task, batch), None)[1]["terms"])(params, batch)
    return float(terms["tokens"].nats)


@pytest.mark.slow
def test_the_first_loss_is_the_dense_model_s_on_every_mesh(text, tmp_path, dense):
    expected = nats(*dense[1:])
    for name, shape, count in (("one", {}, 1), ("eight", {"mesh.data": 4, "mesh.tensor": 2}, 8)):
        grown = begun(text, tmp_path / name, dense, jax.devices()[:count], **shape)
        assert nats(*grown) == pytest.approx(expected, rel=1e-5), name
    up = tree.paths(tree.unstack(grown[1]))["layers/2/moe/up"]
    np.testing.assert_array_equal(up, np.stack([dense[2]["layers"]["scan_0_1"]["0"]["mlp"]["up"][2]] * 3))


def test_noise_makes_experts_differ_by_a_share_of_their_matrix(text, tmp_path, dense):
    params = tree.paths(tree.unstack(begun(text, tmp_path, dense, upcycle_noise=0.25)[1]))
    before = tree.paths(tree.unstack(dense[2]))
    change = params["layers/1/moe/up"] - before["layers/1/mlp/up"]
    np.testing.assert_allclose(jnp.std(change, axis=(1, 2)) / jnp.std(before["layers/1/mlp/up"]), 0.25, rtol=0.2)
    np.testing.assert_array_equal(params["layers/0/mlp/up"], before["layers/0/mlp/up"])


REFUSED = {
    "another width": ({"model.embed_dim": 16}, r"must be the dense one but for .*: model.embed_dim: 24 -> 16"),
    "wider experts": (
        {"model.layers": dict(pattern=(dict(sublayers=(EXPERTS | {"hidden_dim": 24},)),), repeats=3)},
        "hidden_dim=24 of the experts must be 16, the dense ffn's of layer 0",
    ),
    "more layers": ({"model.layers": dict(pattern=(MOE,), repeats=4)}, "the model's 4 layers must be 3, as many as"),
    "no mixture": ({"model.layers": dict(pattern=(MLP,), repeats=3)}, "no layer of the model has a mixture of experts"),
    "no dense model": ({"init_from": "/absent"}, "init_from='/absent': .*there is no checkpoint at /absent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_not_be_the_dense_model_is_refused(case, text, tmp_path, dense):
    changes, message = REFUSED[case]
    with pytest.raises(StartError, match=message):
        begun(text, tmp_path, dense, **changes)


def test_an_upcycling_of_nothing_is_refused(text):
    with pytest.raises(ValueError, match="init_from='' must name a dense model with upcycle=True"):
        tiny.config(text, upcycle=True)
    with pytest.raises(ValueError, match="upcycle_noise=0.1 must be 0 with upcycle=False"):
        tiny.config(text, init_from="a", upcycle_noise=0.1)
