"""Experts that are split over devices give what they give on one: loss, statistics and every gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from arch import tree
from arch.ffns import moe
from arch.layers.weight import axes, unbox
from arch.routers import expert_choice, forced, switch
from arch.sharding import mesh as meshes
from tests.contracts.sublayers import context, holds, inputs, jit, random_like

B, T, D, E, F = 8, 5, 8, 4, 6
MESHES = {
    "data 2, expert 4": dict(data=2, expert=4),
    "fsdp 2, expert 2, tensor 2": dict(data=1, fsdp=2, expert=2, tensor=2),
}
TOP_2 = moe.Config(num_experts=E, top_k=2, hidden_dim=F)
TOP_1 = moe.Config(num_experts=E, top_k=1, hidden_dim=F, renormalize=False)


class Layer:
    """A layer's loss, statistics and gradients, on one device and on meshes."""

    def __init__(self, cfg, rows=B):
        self.cfg, self.x = cfg, inputs(rows, T, D)
        self.boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), self.x, context(self.x))
        self.params = random_like(unbox(self.boxes["params"]))

    def _objective(self, params, x):
        read = context(x, key=jax.random.key(1), deterministic=False)
        out = self.cfg.make().apply({"params": params}, x, read)
        return jnp.sum(jnp.sin(out.x)) + sum(out.aux.losses.values()), out.aux

    def _gradient(self, params, x):
        (loss, aux), (by_params, by_x) = jax.value_and_grad(self._objective, (0, 1), has_aux=True)(params, x)
        return {"loss": loss, "losses": aux.losses, "stats": aux.stats, "params": by_params, "x": by_x}

    def alone(self):
        """{path: value} on one device."""
        return tree.paths(jit(self._gradient)(self.params, self.x))

    def placed(self, put, mesh):
        """Parameters and input, each `put(array, sharding)` by the rules."""
        place = lambda names, leaf: put(leaf, meshes.sharding(names, leaf.shape, mesh))
        is_axes = lambda names: isinstance(names, tuple)
        params = jax.tree.map(place, axes(self.boxes["params"]), self.params, is_leaf=is_axes)
        return params, place(("batch", None, None), self.x)

    def on(self, mesh):
        """({path: value}, the compiled program's text) on a mesh of these sizes."""
        mesh = meshes.make(meshes.Config(**mesh))
        with jax.set_mesh(mesh):
            arguments = self.placed(jax.device_put, mesh)
            compiled = jit(self._gradient).lower(*arguments).compile()
            return tree.paths(compiled(*arguments)), compiled.as_text()


def _collectives(text: str, name: str) -> list[tuple[int, ...]]:
    """The sizes, without ones, of each array that collectives of this name give."""
    kinds = re.findall(rf"= (.*?) {name}(?:-start)?\(", text)
    shapes = [dims.split(",") for kind in kinds for dims in re.findall(r"\[([\d,]*)\]", kind)]
    return [tuple(int(size) for size in shape if size not in ("", "1")) for shape in shapes]


def _gathers_experts(text: str, mesh: dict[str, int]) -> bool:
    """Whether the program puts a matrix of all experts together on any device."""
    experts = sorted((E, D, F // mesh.get("tensor", 1)))
    return any(sorted(shape) == experts for shape in _collectives(text, "all-gather"))


@pytest.fixture(scope="module")
def split():
    """(values on one device, values on 2 x 4 devices, the program there)."""
    layer = Layer(TOP_2)
    return layer.alone(), *layer.on(MESHES["data 2, expert 4"])


def test_loss_statistics_and_every_gradient_are_those_of_one_device(split):
    alone, there, _ = split
    assert {"loss", "losses/balance", "stats/expert_load", "params/router", "params/down", "x"} <= alone.keys()
    for path, value in alone.items():
        assert np.any(value) or path.startswith("stats/"), path
        assert holds(there[path], value), path


def test_rows_travel_and_experts_stay(split):
    rows = (B // 8 * T, D)  # at most, of a shard for one other, whose expert a token has once
    moves = 4  # there and back, forward and backward, to each of four
    assert [shape for shape in _collectives(split[2], "all-to-all") if shape] == [rows] * moves * 4
    assert not _gathers_experts(split[2], MESHES["data 2, expert 4"])


CASES = {
    "grouped": TOP_2,
    "gathered": TOP_2.replace(dispatch="gathered"),
    "dense": TOP_2.replace(dispatch="dense"),
    "all on one expert": TOP_1.replace(router=forced.Config(kind="skewed")),
    "with a capacity": TOP_1.replace(router=switch.Config(capacity_factor=0.5)),
    "expert choice": TOP_2.replace(renormalize=False, router=expert_choice.Config(), balance_weight=0.0),
    "expert dropout": TOP_2.replace(expert_dropout=0.3),
    "some tokens at a time": TOP_2.replace(chunk_tokens=2),
    "in rounds": TOP_2.replace(round_factor=0.7, expert_dropout=0.3),
    "all on one expert in rounds": TOP_1.replace(router=forced.Config(kind="skewed"), round_factor=0.5),
    "experts that do not split": TOP_2.replace(num_experts=3),
    "rows that do not split": TOP_2,
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", CASES)
def test_each_dispatch_and_router_gives_the_same_on_a_mesh(name, mesh):
    layer = Layer(CASES[name], rows=3 if name == "rows that do not split" else B)
    there, text = layer.on(MESHES[mesh])
    for path, value in layer.alone().items():
        assert holds(there[path], value), path
    if name != "experts that do not split":
        assert _collectives(text, "all-to-all") and not _gathers_experts(text, MESHES[mesh])


@pytest.mark.parametrize("fields", [dict(dispatch="gathered"), dict(chunk_tokens=2)])
def test_rounds_are_refused_where_there_are_none(fields):
    with pytest.raises(ValueError, match="round_factor=0.7 must be 0 with dispatch=.* and chunk_tokens="):
        TOP_2.replace(round_factor=0.7, **fields)


def test_a_gather_of_experts_is_seen():
    mesh = MESHES["fsdp 2, expert 2, tensor 2"]
    text = "ag = f32[4,8,3]{2,1,0} all-gather(p), x\nr = f32[4,1,2]{2,1,0} all-reduce(p)"
    assert _gathers_experts(text, mesh) and _collectives(text, "all-reduce") == [(4, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all on one expert", "with a capacity"])
def test_a_capacity_alone_drops(name):
    stats = Layer(CASES[name]).on(MESHES["data 2, expert 4"])[0]
    assert (stats["stats/sum_dropped"] > 0) == (name == "with a capacity")


@pytest.mark.slow
def test_on_tpus_rows_alone_travel(monkeypatch):
    pytest.importorskip("libtpu", reason="compiles for TPUs, with none here: pip install libtpu")
    for name, value in dict(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost").items():
        monkeypatch.setenv(name, value)
    devices = topologies.get_topology_desc(topology_name="v5e:2x4", platform="tpu").devices
    sizes = MESHES["fsdp 2, expert 2, tensor 2"]
    mesh = meshes.make(meshes.Config(**sizes), devices)
    shape = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    layer = Layer(TOP_2)
    arguments = layer.placed(shape, mesh)
    with jax.set_mesh(mesh):
        text = jax.jit(layer._gradient).lower(*arguments).compile().as_text()
    assert len(_collectives(text, "ragged-all-to-all")) == 4  # there and back, forward and backward
    assert _collectives(text, "all-gather") and not _gathers_experts(text, sizes)
