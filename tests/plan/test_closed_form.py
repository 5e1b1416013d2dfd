"""The closed form: its persistent bytes are those of the published numbers of parameters, its FLOPs those of XLA."""

import importlib
import math

import jax
import pytest

from arch.families import llama, mixtral
from arch.layers import token_loss
from arch.plan import closed_form, lowering, topology
from arch.sharding import mesh as meshes
from arch.train import experiment, memory
from arch.train import state as states
from tests.families import golden

LARGE = [(family, name) for family, presets in golden.PRESETS.items() for name, row in presets.items() if row[2] > 3e8]
FAST = LARGE[:: max(1, len(LARGE) // 32)]
COUNTED = [pytest.param(*preset, marks=[pytest.mark.slow] * (preset not in FAST)) for preset in LARGE]


def run(model, **fields):
    """A run on so many devices as its axes say, none of which are here."""
    sizes = fields.pop("mesh", {})
    values = dict(model=model, total_steps=5, batch_size=8, seq_len=64) | fields
    cfg = experiment.Config(**values, mesh=meshes.Config(**{"data": 1} | sizes))
    return lowering.prepare(cfg, meshes.abstract(cfg.mesh, math.prod(sizes.values())))


def test_enough_presets_are_held_in_the_fast_tests():
    assert len(FAST) >= 30


def persistent(family, name, **sizes):
    """Bytes of (weights, moments) on each device of a mesh."""
    model = importlib.import_module(f"arch.families.{family}").PRESETS[name].make()
    mesh = meshes.abstract(meshes.Config(**{"data": 1} | sizes), math.prod(sizes.values()))
    plan = states.plan(model, experiment.optimizers.Config().make(5), mesh)
    return memory.size(plan.abstract.params), memory.size(plan.abstract.opt_state)


@pytest.mark.parametrize("family, name", COUNTED)
def test_weights_and_moments_are_those_of_the_published_parameters(family, name):
    _, _, parameters = golden.PRESETS[family][name]
    weights, moments = persistent(family, name, data=8)
    assert weights == 4 * parameters and moments == pytest.approx(8 * parameters, rel=0.01)  # buffers have none


@pytest.mark.parametrize("family, name, sizes", [
    ("gpt", "gpt3_175b", dict(fsdp=64)),
    ("llama", "llama2_7b", dict(fsdp=64)),
    ("mixtral", "mixtral_8x7b", dict(data=2, fsdp=4, expert=8)),
])  # fmt: skip
def test_they_are_split_over_the_devices_that_share_them(family, name, sizes):
    _, _, parameters = golden.PRESETS[family][name]
    shards = math.prod(size for axis, size in sizes.items() if axis != "data")
    found = persistent(family, name, **sizes)
    assert found == pytest.approx((4 * parameters / shards, 8 * parameters / shards), rel=0.01)


SMALL = dict(vocab_size=512, embed_dim=64, num_layers=3, num_heads=4, hidden_dim=96)


def test_flops_of_rematerialised_layers_are_a_third_more():
    plain, again = (run(llama.compose(**SMALL).replace(layers=llama.compose(**SMALL).layers.replace(remat=remat)))
                    for remat in ("none", "full"))  # fmt: skip
    first, second = closed_form.estimate(plain), closed_form.estimate(again)
    assert second.flops == pytest.approx(4 / 3 * first.flops) and second.required == first.required


@pytest.mark.parametrize("sizes, axes", [
    (dict(), set()),
    (dict(fsdp=8), {"fsdp"}),
    (dict(data=2, fsdp=4), {"data", "fsdp"}),
    (dict(fsdp=4, tensor=2), {"fsdp", "tensor"}),
    (dict(fsdp=2, expert=4), {"fsdp", "expert"}),
])  # fmt: skip
def test_messages_cross_the_axes_that_split_something(sizes, axes):
    assert set(closed_form.estimate(run(mixtral.compose(**SMALL), mesh=sizes)).received) == axes


def test_weights_are_gathered_twice_and_their_gradients_scattered():
    found = closed_form.estimate(run(llama.compose(**SMALL), mesh=dict(fsdp=8)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run(llama.compose(**SMALL)).plan.abstract.params))
    assert found.received["fsdp"] == pytest.approx(3 * 4 * parameters * 7 / 8, rel=0.01)


def test_between_slices_only_data_travels_and_slowly():
    where = topology.parse("v5e:2x2,slices=2")
    found = closed_form.estimate(run(llama.compose(**SMALL), mesh=dict(data=2, fsdp=4)))
    terms = found.seconds(where)
    assert terms["between_s"] == found.received["data"] / where.chip.between
    assert terms["links_s"] == found.received["fsdp"] / where.chip.links


def test_what_a_mesh_leaves_whole_is_not_gathered():
    odd = llama.compose(**SMALL | dict(vocab_size=509, embed_dim=61, hidden_dim=97, head_dim=7))
    found = closed_form.estimate(run(odd, mesh=dict(fsdp=8)))
    assert found.gathered == 0 and not found.received


def test_a_chunked_loss_takes_less():
    model = llama.compose(**SMALL | dict(vocab_size=2**15))
    whole, chunked = (closed_form.estimate(run(model, loss=token_loss.Config(chunk_tokens=n))) for n in (0, 64))
    assert whole.total > chunked.total
