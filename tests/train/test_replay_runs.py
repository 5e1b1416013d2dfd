"""A run takes its samples' recorded routes from a file: those of its own parameters change nothing, others do."""

import jax
import numpy as np
import pytest

from arch.data import dataset
from arch.train import evaluation, routes
from arch.train import state as states
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("quick")
REPLAY = tiny.MOE | {"router": dict(name="replay")}
RUN = dict(total_steps=1, eval_every_steps=0, checkpoint_every_steps=0, eval_batches=1)


def config(text, mixture, **changes):
    """Of a run of one step with one mixture."""
    layers = dict(pattern=(dict(sublayers=(tiny.MLP,)), dict(sublayers=(mixture,))))
    return tiny.config(text, **RUN, **{"model.layers": layers}, **changes)


@pytest.fixture(scope="module")
def recorded(quick, text, tmp_path_factory):
    """The file of the first batch's routes, by the parameters of the first step; and these."""
    folder = tmp_path_factory.mktemp("recorded")
    setup = tiny.prepare(config(text, tiny.MOE), folder)
    with jax.set_mesh(setup.mesh):
        params = states.init(setup.model, setup.optimizer, setup.plan, jax.random.key(setup.cfg.seed)).params
        rows = setup.dataset("train")[0]
        found = jax.jit(lambda *args: routes.record(setup.cfg.model, *args))(params, dataset.without_ids(rows))
    routes.save(folder / "routes.npz", found, rows["ids"])
    return folder / "routes.npz", found, rows["ids"]


def first_loss(cfg, workdir) -> float:
    """Of the first step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "evaluate", lambda *_, **__: {})  # another program to compile
        tiny.train(cfg, workdir)
    return tiny.losses(workdir)[0]


@pytest.mark.slow
def test_its_own_routes_change_nothing_and_another_sample_s_do(text, tmp_path, recorded):
    file, found, ids = recorded
    plain = first_loss(config(text, tiny.MOE), tmp_path / "plain")
    own = first_loss(config(text, REPLAY, replay=str(file)), tmp_path / "own")
    routes.save(tmp_path / "other.npz", found, np.roll(ids, 1))
    other = first_loss(config(text, REPLAY, replay=str(tmp_path / "other.npz")), tmp_path / "other")
    assert own == pytest.approx(plain, rel=1e-6) and abs(other - plain) > 1e-5


def test_a_sample_without_routes_is_named(text, tmp_path, recorded):
    batches = tiny.prepare(config(text, REPLAY, replay=str(recorded[0])), tmp_path).dataset("train")
    assert batches[0]["route_experts"].shape == (8, 29, 2, 2)
    with pytest.raises(ValueError, match="has no routes of sample 8, but of 8 others"):
        batches[1]


def test_what_is_no_record_is_refused(text, tmp_path, recorded):
    (tmp_path / "text.npz").write_text("no routes")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "flat.npz", ids=np.zeros(3, int), route_experts=np.zeros(3, int), route_weights=np.zeros(3))
    for file in ("absent.npz", "text.npz", "empty.npz", "array.npy", "flat.npz"):
        with pytest.raises(ValueError, match=f"replay='.*{file}' must be a file that arch.train.routes.save wrote"):
            tiny.prepare(config(text, REPLAY, replay=str(tmp_path / file)), tmp_path / "run")
    with pytest.raises(ValueError, match="expert 2 of layer 1 must be from -1 to 1"):
        tiny.prepare(config(text, REPLAY | {"num_experts": 2}, replay=str(recorded[0])), tmp_path / "run")
    with pytest.raises(ValueError, match=r"route_experts is int32\[8, 29, 2, 2\], not int32\[8, 11, 2, '...'\]"):
        tiny.prepare(config(text, REPLAY, replay=str(recorded[0]), seq_len=11), tmp_path / "run")


def test_a_router_that_waits_for_routes_and_a_file_that_none_reads_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match="replay='' must name a file of routes with router='replay' of layers/1"):
        tiny.prepare(config(text, REPLAY), tmp_path)
    with pytest.raises(ValueError, match="replay='a' must be '' without a mixture of experts of router='replay'"):
        tiny.prepare(config(text, tiny.MOE, replay="a"), tmp_path)
