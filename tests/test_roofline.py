"""The least time of a training step: its products are those of the model, its table is the one that was kept."""

import json
import pathlib

import pytest

from arch.families import llama, mixtral
from arch.ffns import mlp
from arch.layers.flops import Row, UnknownFlops
from benchmarks import roofline

RESULTS = pathlib.Path(roofline.__file__).parent / "results"
SMALL = dict(vocab_size=11, embed_dim=24, num_layers=3, num_heads=3, hidden_dim=7)
PLACE = roofline.Place(rows=2, length=160, fsdp=2, expert=4)
KEPT = json.loads((RESULTS / "roofline.json").read_text())


@pytest.mark.parametrize("cfg", [mixtral.compose(**SMALL), llama.compose(**SMALL)], ids=["mixtral", "llama"])
def test_the_products_are_those_that_the_model_executes(cfg):
    layer = cfg.layers.blocks[0]
    executed = 2 * layer.flops(Row(160, 24)).executed
    again = {"pairs": 9 / 2}  # products for each one of the forward pass
    found = sum(op.flops / again.get(op.name, roofline.PRODUCTS) for op in roofline.of_layer(layer, 24, PLACE))
    weighing = 2 * 2 * 160 * 2 * 24 if layer.sublayers[1].label == "moe" else 0  # the weighted sum of two experts
    assert found == executed - weighing


def test_a_sublayer_that_is_not_known_is_refused():
    layer = mixtral.compose(**SMALL).layers.blocks[0]
    odd = layer.replace(sublayers=(*layer.sublayers, mlp.Config(hidden_dim=5)))
    with pytest.raises(UnknownFlops, match="mlp does not say its FLOPs"):
        roofline.of_layer(odd, 24, PLACE)


def test_dense_of_equal_active_flops_executes_as_many():
    cfg = mixtral.compose(**SMALL)
    flops = [
        sum(op.flops for op in roofline.of_layer(model.layers.blocks[0], 24, PLACE) if op.name != "router")
        for model in (cfg, roofline.dense(cfg))
    ]
    assert flops[0] == flops[1]


def test_what_limits_a_step_is_the_slower_of_work_and_links():
    ops = [roofline.Op("a", flops=6, memory=1, gathered=5), roofline.Op("b", flops=1, memory=8)]
    found = roofline.seconds(ops, peak=2.0, memory=4.0, links=0.5)
    assert found == dict(work_s=3.0 + 2.0, links_s=10.0, step_s=10.0)


@pytest.mark.parametrize("command", KEPT)
def test_the_kept_table_is_what_is_computed(command):
    name, chip, *sizes = command.split()[3:]
    place = roofline.Place(1, 4096, **{axis: int(size) for axis, size in (pair.split("=") for pair in sizes)})
    family, preset = name.split(".")
    assert family == "mixtral"
    table = roofline.table(mixtral.PRESETS[preset], chip, place)
    assert table == {key: KEPT[command][key] for key in table}


@pytest.mark.parametrize("command", KEPT)
def test_a_mixture_s_step_takes_no_more_than_1_25_times_that_of_the_dense_model(command):
    assert KEPT[command]["ratio"] == round(KEPT[command]["moe"]["step_s"] / KEPT[command]["dense"]["step_s"], 3) <= 1.25
