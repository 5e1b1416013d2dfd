"""Recurrences run by the kernels of the device, on each shard of a mesh, and give what XLA's form gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.kernels.linear_attention import decayed, tpu
from arch.kernels.selective_scan import scan
from arch.kernels.selective_scan import tpu_grid as scan_grid
from arch.kernels.wkv import average
from arch.kernels.wkv import tpu_grid as wkv_grid
from arch.mixers import _recurrence
from arch.ops import selective_scan, ssd, wkv
from arch.ops.linear_attention import recurrence
from arch.sharding import mesh as meshes

MESH = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
ROWS, LENGTH = 4, 11


def draw(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).uniform(0.1, 1.0, shape), jnp.float32)


def space(groups):
    tokens = draw(ROWS, LENGTH, 4, 3), draw(ROWS, LENGTH, 4), -draw(4), *2 * [draw(ROWS, LENGTH, groups, 5)], draw(4)
    return tokens, dict(state=draw(ROWS, 4, 3, 5), chunk=8)


RESET = {"reset": jnp.arange(LENGTH)[None] % 7 == jnp.arange(ROWS)[:, None]}
HEADS = 3 * [draw(ROWS, LENGTH, 4, 3)]
CASES = {
    "linear attention": ("linear_attention", recurrence.linear_attention, HEADS, dict(chunk=8, valid=~RESET["reset"])),
    "a fixed decay": ("linear_attention", recurrence.linear_attention, [*HEADS, -draw(1, 1, 4, 1)], dict(chunk=8)),
    "ssd of a group": ("ssd", ssd.ssd, *space(1)),
    "ssd of two groups": ("ssd", ssd.ssd, *space(2)),
    "scan": (
        "selective_scan",
        selective_scan.selective_scan,
        [*2 * [draw(ROWS, LENGTH, 6)], -draw(6, 3), *2 * [draw(ROWS, LENGTH, 3)], draw(6)],
        RESET | dict(state=draw(ROWS, 6, 3)),
    ),
    "wkv": ("wkv", wkv.wkv, [*2 * [draw(ROWS, LENGTH, 6)], draw(6), draw(6)], RESET | dict(state=wkv.empty(ROWS, 6))),
}
FAST = ("ssd of a group", "scan")


@pytest.fixture
def on_tpu(monkeypatch):
    """The kernels, interpreted, with small blocks."""
    monkeypatch.setattr(_recurrence, "device_kind", lambda: "TPU v5p")
    for module, name in ((decayed, "decayed_attention"), (scan, "selective_scan"), (average, "wkv")):
        monkeypatch.setattr(module, name, functools.partial(getattr(module, name), launch=True))
    for module, name, size in (
        (tpu, "CHUNK", 8),
        (scan_grid, "LANES", 8),
        (scan_grid, "GROUP", 4),
        (wkv_grid, "LANES", 8),
    ):
        monkeypatch.setattr(module, name, size)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_kernels_on_shards_give_what_xla_gives_on_whole_arrays(name, on_tpu):
    called, reference, arrays, given = CASES[name]

    def total(function, *arrays):
        y, state = function(*arrays, **given)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((y, state))), (y, state)

    def both(function):
        return jax.jit(jax.value_and_grad(functools.partial(total, function), range(len(arrays)), has_aux=True))

    expected = both(reference)(*arrays)
    with jax.set_mesh(MESH):
        run = both(getattr(_recurrence, called))
        assert "shard_map" in str(jax.make_jaxpr(run)(*arrays)) and "pallas_call" in str(jax.make_jaxpr(run)(*arrays))
        found = run(*arrays)
    for mine, exact in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=1e-5 * max(1.0, np.abs(exact).max()))
