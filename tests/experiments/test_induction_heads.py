"""The runs of induction heads are those of the paper, and each expectation of them can fail."""

import pytest

from arch.train import experiment
from experiments import report
from experiments.induction_heads import claim
from experiments.induction_heads.config import MIXERS, POSITIONS, get_config

PAPER = report.read(report.HERE / "induction_heads")[2]
TIMES = (1, 2, 4, 16)


@pytest.mark.parametrize("mixer, width, rate", [("mamba", 64, 1e-3), ("rope", 128, 2e-4)])
def test_of_the_paper_are_widths_rates_rows_and_steps(mixer, width, rate):
    cfg = experiment.from_dict(get_config(f"paper,mixer={mixer}"))
    assert (cfg.model.embed_dim, cfg.optimizer.learning_rate, cfg.optimizer.rate_shape) == (width, rate, "constant")
    assert (cfg.task.length, cfg.task.letters, cfg.batch_size, cfg.total_steps) == (256, 15, 8, 204_800)


def test_learned_positions_reach_the_longest_rows_that_are_asked_about():
    for size, longest in {"small": 1024, "paper": 16_384}.items():
        cfg = experiment.from_dict(get_config(f"{size},mixer=learned"))
        assert cfg.model.position.length == cfg.task.replace(length=longest).seq_len


def rows(**changed):
    """Two seeds of each mixer: Mamba is always right, attention up to twice the length of training."""
    right = {mixer: [0.99, 0.8 if mixer == "rope" else 0.7, 0.3, 0.1] for mixer in POSITIONS}
    right |= {mixer: [1.0] * 4 for mixer in ("mamba", "mamba2")}
    row = lambda mixer, seed, found: dict(
        mixer=mixer, seed=seed, trained=64, accuracy={str(64 * t): each for t, each in zip(TIMES, found)}
    )
    return [row(mixer, seed, changed.get(f"{mixer}{seed}", right[mixer])) for mixer in MIXERS for seed in (0, 1)]


@pytest.mark.parametrize("changed, short", [
    ({}, []),
    ({"mamba1": [1.0, 1.0, 0.9, 0.9]}, ["mamba solves rows up to 4 ", "mamba solves rows up to 16 "]),
    ({"mamba20": [1.0, 1.0, 1.0, 0.9]}, ["mamba2 solves rows up to 16 "]),
    ({"alibi0": [1.0, 1.0, 0.98, 0.9]}, ["attention with positions 'alibi' solves rows 4 "]),
    ({"learned1": [0.9, 0.5, 0.1, 0.1]}, ["attention with positions 'learned' solves rows as long"]),
    ({"rope0": [1.0, 0.5, 0.1, 0.1]}, ["on rows twice as long"]),
])  # fmt: skip
def test_an_expectation_fails_by_one_seed(changed, short):
    missed = [each.says for each in claim.expect(rows(**changed), PAPER) if not each.holds]
    assert len(missed) == len(short) and all(says.startswith(start) for says, start in zip(missed, short)), missed


def test_ours_and_the_papers_stand_under_the_same_multiples_of_the_training_length():
    lines = {(line["mixer"], line["whose"]): line for line in claim.table(rows(), PAPER)}
    assert lines["rope", "ours"]["2x"] == "80.0 (80.0 to 80.0)" and lines["rope", "paper"]["2x"] == "83.6"
    assert lines["mamba", "paper"]["4096x"] == "100.0" and lines["mamba", "ours"]["4096x"] == ""
    assert ("alibi", "paper") not in lines and ("xpos", "ours") not in lines
