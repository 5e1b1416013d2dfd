"""The search: what is tried divides the devices, what wins is fastest, and what it prints is a config."""

import dataclasses
import math

import pytest

from arch.families import llama, mixtral
from arch.plan import advice, lowering, report, search, topology
from arch.plan import plan as plans
from arch.sharding import mesh as meshes
from arch.train import experiment
from benchmarks import plan_search

SIZES = dict(vocab_size=64, embed_dim=32, num_layers=2, num_heads=4, hidden_dim=24)
NODE = topology.parse("h200:8")


def run(model, **fields):
    return experiment.Config(**dict(model=model, total_steps=5, batch_size=8, seq_len=16) | fields)


def test_meshes_multiply_to_the_devices_and_divide_the_experts():
    found = list(search.meshes_of(run(mixtral.compose(**SIZES)), NODE))
    assert all(math.prod(sizes.values()) == 8 and 8 % sizes["expert"] == 0 for sizes in found)
    assert {sizes["expert"] for sizes in found} == {1, 2, 4, 8}
    assert len({tuple(sizes.items()) for sizes in found}) == len(found)


def test_a_model_without_experts_has_no_axis_of_them():
    assert {sizes["expert"] for sizes in search.meshes_of(run(llama.compose(**SIZES)), NODE)} == {1}


def test_slices_divide_the_data_axis():
    found = search.meshes_of(run(llama.compose(**SIZES)), topology.parse("h200:8,slices=2"))
    assert {sizes["data"] % 2 for sizes in found} == {0}


@pytest.fixture(scope="module")
def found():
    return search.search(run(llama.compose(**SIZES)), NODE, price=2.0, compiles=2)


def test_where_bounds_are_the_same_fewer_rows_are_tried_first_then_what_has_less_to_wait_for():
    one = plan_search.listed(run(llama.compose(**SIZES)), NODE, tensor=1, data=1)[0]
    of = lambda rows, seconds, waits: dataclasses.replace(one, rows=rows, seconds=seconds, waits=waits)
    order = [of(8, 0.5, 9.0), of(1, 1.0, 2.0), of(1, 1.001, 3.0), of(2, 1.0, 1.0)]
    assert search.ranked(order[::-1], NODE) == order


def test_as_many_as_fit_are_told_fastest_first(found):
    rates = [row["plan"]["tokens_per_second"] for row in found["tried"]]
    assert len(rates) == 2 and rates[1] <= rates[0] * search.NEAR
    assert found["considered"] >= found["within"] >= 2


def test_the_winner_s_overrides_make_its_plan(found):
    given = dict(text.removeprefix("--config.").split("=") for text in found["tried"][0]["overrides"])
    cfg = run(llama.compose(**SIZES))
    axes = {path.removeprefix("mesh."): int(size) for path, size in given.items() if path.startswith("mesh.")}
    cfg = cfg.replace(mesh=cfg.mesh.replace(**axes), batch_size=int(given.get("batch_size", cfg.batch_size)))
    cfg = advice.with_remat(cfg, given.get("model.layers.remat", "none"))
    assert plans.plan(cfg, NODE, price=2.0) == found["tried"][0]["plan"]


def test_the_table_ends_in_the_line_to_paste(found):
    assert search.text(found).splitlines()[-1] == " ".join(found["tried"][0]["overrides"])


def test_what_fits_nowhere_is_refused_with_the_least_that_it_takes(monkeypatch):
    monkeypatch.setattr(search, "ROWS", (1,))
    monkeypatch.setattr(search, "REMATS", ("full",))
    large = llama.PRESETS["llama3_1_405b"]
    with pytest.raises(
        ValueError, match=r"--topology=h200:8 has no mesh, batch and remat with which the run fits: .*GiB"
    ):
        search.search(run(large), NODE)


def test_what_does_not_fit_is_told_what_would_make_it_fit():
    cfg = run(llama.PRESETS["llama2_7b"], batch_size=64, seq_len=4096, mesh=meshes.Config(data=8))
    found = plans.plan(cfg, NODE)
    assert not found["fits"] and found["would_fit"][0]["fits"]
    words = report.text(found)
    assert "It does not fit." in words and "- `--config.model.layers.remat=full" in words
    assert "closed form alone" in words


def test_the_batch_is_cut_into_no_more_parts_than_it_takes():
    cfg = run(llama.PRESETS["llama2_7b"], batch_size=64, seq_len=4096, mesh=meshes.Config(data=1, fsdp=8))
    one = lowering.prepare(cfg, meshes.abstract(cfg.mesh, 8))
    (row,) = [row for row in advice.changes(one, NODE) if row["overrides"][0].startswith("--config.micro_batches")]
    parts = int(row["overrides"][0].split("=")[1])
    fewer = advice.reckoned(one, cfg.replace(micro_batches=parts // 2), NODE)
    assert row["fits"] and row["total"] <= NODE.chip.capacity < fewer


def test_a_gpu_node_must_be_divided_by_its_mesh():
    with pytest.raises(ValueError, match="must multiply to the number of devices, 8"):
        plans.plan(run(llama.compose(**SIZES), mesh=meshes.Config(data=3)), NODE)


def test_a_change_that_helps_nothing_is_not_advised():
    cfg = run(llama.compose(**SIZES), mesh=meshes.Config(data=1, fsdp=8))
    full = lowering.prepare(advice.with_remat(cfg, "full"), meshes.abstract(cfg.mesh, 8))
    assert not any("remat" in text or "mesh" in text for row in advice.changes(full, NODE) for text in row["overrides"])


def test_of_a_list_of_meshes_the_search_s_choice_is_held_to_the_best(monkeypatch):
    monkeypatch.setattr(plan_search, "COMPILES", 2)
    every = plan_search.listed(run(llama.compose(**SIZES)), NODE, tensor=2, data=1)
    names = [plan_search.name_of(each) for each in search.ranked(every, NODE)]
    assert set(names) == {"fsdp=8", "fsdp=4 tensor=2"}
    rows = {name: dict(fits=True, batch_size=8, tokens_per_second=1.0 + i) for i, name in enumerate(names)}
    assert plan_search.verdict(every, rows, NODE) == dict(tried=names, chosen=names[1], best=names[1], ratio=1.0)
    rows[names[1]] |= dict(fits=False)
    assert plan_search.verdict(every, rows, NODE)["chosen"] == names[0]
