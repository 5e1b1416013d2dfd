"""What is told of a compiled program, here for 8 CPU devices: its products are the model's, its messages have axes."""

import math

import jax
import pytest

from arch.families import llama, mixtral
from arch.plan import account, closed_form, loads, lowering, roofline, topology
from arch.plan.program.count import Op
from arch.sharding import mesh as meshes
from arch.train import experiment, memory

WHERE = topology.parse("v5e:2x4")
SIZES = dict(vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, hidden_dim=24)


@pytest.fixture(scope="module")
def run():
    cfg = experiment.Config(
        model=llama.compose(**SIZES),
        total_steps=5,
        batch_size=8,
        seq_len=16,
        mesh=meshes.Config(data=2, fsdp=2, tensor=2),
    )
    return lowering.prepare(cfg, meshes.make(cfg.mesh, jax.devices()[:8]))


@pytest.fixture(scope="module")
def step(run):
    return account.of(lowering.train(run), run, WHERE, length=16)


def test_the_step_has_about_the_products_that_the_closed_form_tells(run, step):
    assert step["flops"] == pytest.approx(closed_form.estimate(run).flops, rel=0.01)


def test_its_arguments_are_the_state_and_the_batch(run, step):
    batch = 8 * 16 * 5 * 4 / 4
    assert step["memory"]["arguments"] == pytest.approx(memory.size(run.plan.abstract) + batch, rel=0.01)


def test_its_messages_cross_the_axes_of_its_mesh(step):
    axes = {axis for row in step["collectives"] for axis in row["axes"]}
    assert axes == {"data", "fsdp", "tensor"}
    assert sum(row["received"] for row in step["collectives"]) == step["received"] > 0
    assert all(row["link"] == "links" for row in step["collectives"])


def test_the_step_takes_as_long_as_the_slowest_of_its_terms(step):
    terms = dict(step["seconds"])
    assert terms.pop("step_s") == max(terms.values()) and step["bound"] in roofline.TERMS.values()


def test_a_step_of_decoding_has_a_token_of_each_row_meet_all_weights_and_the_whole_cache(run):
    out = account.of(lowering.decode(run), run, WHERE, length=1)
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 24) + 64 * 32
    rows, shards = 8 / 4, 2  # over data and fsdp; over tensor
    assert out["flops"] == 2 * rows * (weights + 2 * 2 * 16 * 32) / shards


def op(*members, received=8.0):
    return Op(kind="all-gather", path="", trips=2, received=received, members=members)


def test_messages_are_summed_by_kind_and_axes():
    sizes = dict(data=2, fsdp=3)
    rows = roofline.messages([op(0, 1, 2), op(0, 1, 2), op(0, 3, received=20.0)], sizes, slices=2)
    assert rows == [
        dict(kind="all-gather", axes=["data"], link="between slices", count=2, received=20.0),
        dict(kind="all-gather", axes=["fsdp"], link="links", count=4, received=16.0),
    ]


@pytest.mark.parametrize("kind, size", [("all-reduce", 6.0), ("all-gather", 12.0), ("collective-permute", 8.0)])
def test_the_buffer_of_a_message_is_told_from_what_is_received(kind, size):
    some = Op(kind=kind, path="", trips=2, received=16.0, members=(0, 1, 2))
    assert roofline.buffer(some) == pytest.approx(size)


def test_what_comes_from_other_slices_takes_the_slower_way():
    ops = [op(0, 1, 2), op(0, 3, received=20.0)]
    outside = lambda each: roofline.crosses(each, dict(data=2, fsdp=3), 2)
    found = roofline.seconds(ops, peak=1.0, memory=1.0, links=4.0, between=2.0, outside=outside)
    assert found == dict(work_s=0.0, memory_s=0.0, links_s=2.0, between_s=10.0, step_s=10.0)


def test_a_step_waits_for_products_or_memory_whichever_takes_more():
    ops = [Op(kind="dot", path="", trips=1, products=60), Op(kind="copy", path="", trips=1, memory=10)]
    terms = roofline.seconds(ops, peak=10.0, memory=2.0, links=1.0)
    assert roofline.bound(terms, ops, peak=10.0, memory=2.0) == "matrix products"
    assert roofline.bound(terms, ops[1:], peak=10.0, memory=2.0) == "memory bandwidth"


@pytest.mark.parametrize("text, size", [
    ("Ran out of memory on HBM, the total memory required for HLO temporaries (42.5G) exceeds", 42.5 * 2**30),
    ("Ran out of memory in memory space hbm. Used 600.0M of 15.75G hbm.", 600 * 2**20),
    ("Something else", 0.0),
])  # fmt: skip
def test_what_a_refused_program_wanted_is_read(text, size):
    assert account.wanted(text) == size


def test_mixtures_that_differ_are_not_counted():
    cfg = mixtral.compose(**SIZES)
    (layer,) = cfg.layers.pattern
    other = tuple(part.replace(top_k=3) if part.label == "moe" else part for part in layer.sublayers)
    both = cfg.replace(layers=cfg.layers.replace(pattern=(layer, layer.replace(sublayers=other))))
    with pytest.raises(ValueError, match="mixtures must have one"):
        loads.even_load(both, 2)


def test_the_batch_must_be_divided_by_the_mesh():
    cfg = experiment.Config(model=mixtral.compose(**SIZES), total_steps=5, batch_size=6, seq_len=16)
    with pytest.raises(ValueError, match=r"batch_size=6 / micro_batches=1 = 6 rows must be a multiple of mesh.data"):
        lowering.prepare(cfg, meshes.abstract(meshes.Config(data=8), 8))


def test_rates_and_costs_follow_from_the_step(run):
    from arch.plan import plan as plans

    estimate = closed_form.estimate(run)
    found = plans.rates(run, WHERE, estimate, 2.0, 1.5)
    assert found["tokens_per_second"] == 8 * 16 / 2
    assert found["mfu_bound"] == estimate.required / (2 * 8 * WHERE.chip.peak)
    assert found["cost_per_billion_tokens"] == pytest.approx(1.5 * 8 * 1e9 / 64 / 3600)
    assert math.isclose(found["step_seconds"], 2.0)
