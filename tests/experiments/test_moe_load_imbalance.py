"""The remedies against load imbalance are what the page says, and so are their numbers."""

import json

import pytest

from arch.train import modes, results, sweep
from arch.train.startup import Startup
from experiments import report
from experiments.moe_load_imbalance import claim
from experiments.moe_load_imbalance.config import REMEDIES
from experiments.record import Point

FOLDER = report.HERE / "moe_load_imbalance"
CONFIG = str(FOLDER / "config.py")
ROWS = json.loads((FOLDER / "results" / "small.json").read_text())["rows"]


def test_every_point_is_a_run_whose_layers_differ_from_all_others():
    points = sweep.read(CONFIG)
    layers = [cfg.model.layers for cfg in sweep.configs(CONFIG, {}, points)]
    assert len(layers) == len(REMEDIES) and all(one not in layers[:i] for i, one in enumerate(layers))


def test_without_a_remedy_there_is_no_loss_no_noise_and_no_limit():
    (cfg, *_) = sweep.configs(CONFIG, {}, sweep.read(CONFIG))
    layer = cfg.model.layers.pattern[0].sublayers[1]
    assert (layer.balance_weight, layer.z_weight, layer.bias_rate, layer.expert_dropout) == (0, 0, 0, 0)
    assert (layer.router.jitter, layer.router.drop_experts, layer.router.label) == (0, 0, "top_k")


def test_the_results_are_of_every_remedy_and_the_page_names_each():
    assert [row["remedy"] for row in ROWS] == list(REMEDIES)
    assert all(f"| {remedy} |" in claim.CLAIM.setup for remedy in REMEDIES)


def test_the_numbers_are_means_of_the_last_logged_steps(tmp_path):
    lines = [{"step": step, "train/loss": 1.0} | {
        f"moe/layers/{layer}/{name}": step + layer for layer in range(2) for name in claim.NUMBERS
    } for step in range(1, 13)]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 12, "eval/valid/loss": 2.5}])
    (tmp_path / "metrics.jsonl").write_text(text)
    last = {"eval/valid/loss": 2.5}
    point = Point(tmp_path, results.Result(0, "0", {"arg": "remedy=none"}, {}, status="finished", last=last))
    (row,) = claim.rows(point)
    assert row["valid_nats"] == 2.5 and row["load_cv"] == [7.5, 8.5]
    assert row["largest_load"] == [list(range(1, 13)), list(range(2, 14))] and row["steps"] == list(range(1, 13))


@pytest.mark.slow
def test_a_run_without_a_remedy_crowds_its_experts_again(tmp_path):
    (cfg, *_) = sweep.configs(CONFIG, {}, sweep.read(CONFIG))
    found = modes.train(cfg, str(tmp_path), {}, Startup())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    crowd = max(line["moe/layers/1/load_max"] for line in lines[-30:] if "train/loss" in line)
    assert crowd > 3 / 8 and found["eval/valid/loss"] == pytest.approx(ROWS[0]["valid_nats"], abs=0.2)
