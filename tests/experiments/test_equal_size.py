"""The models of equal size are of equal size, and what is expected of them is judged by their curves."""

import pytest

from arch import tree
from arch.train import state as states
from experiments.equal_size import claim
from experiments.equal_size.config import MODELS, SIZES


def parameters(name, size):
    return tree.count(states.shapes(MODELS[name](SIZES[size]).make()))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "paper"])
def test_all_models_are_within_3_percent_of_llamas_size(size):
    counts = {name: parameters(name, size) for name in MODELS}
    assert max(abs(count / counts["llama"] - 1) for count in counts.values()) < 0.03, counts


def row(name, *bits, flops=10):
    costs = dict(parameters=100, met=50, tokens_a_step=4, flops_a_step=flops, seconds_a_step=0.5, seed=0)
    return dict(model=name, **costs, bits={str(step): value for step, value in enumerate(bits, start=1)})


def test_equal_flops_are_judged_between_evaluations():
    rows = [row("llama", 4.0, 3.0, 2.0), row("mixtral", 2.9, 2.8, 2.4, flops=5)]
    assert claim.at(rows[0], 15) == 3.5
    rest = [row(name, 2.5) for name in ("longformer_type", "performer", "rwkv", "mamba2", "jamba")]
    (found,) = [each for each in claim.expect(rows + rest, ()) if "equal FLOPs" in each.says]
    assert found.holds and "llama 3.500 after 15 FLOPs" in found.found
    rows[1]["flops_a_step"] = 10
    (found,) = [each for each in claim.expect(rows + rest, ()) if "equal FLOPs" in each.says]
    assert not found.holds


def test_curves_are_steps_times_costs():
    panels = claim.figure([row("llama", 4.0, 3.0)], ())
    assert [panel.lines[0].points for panel in panels] == [
        [(4, 4.0), (8, 3.0)], [(10, 4.0), (20, 3.0)], [(0.5, 4.0), (1.0, 3.0)],
    ]  # fmt: skip
