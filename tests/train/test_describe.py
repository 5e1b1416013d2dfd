"""`--mode=describe` says what a run would be, for models and meshes of any size, and touches nothing."""

import re
import time

import pytest

from arch.families import llama
from arch.sharding import mesh as meshes
from arch.train import experiment
from arch.train.describe import describe
from tests.commands import run_process
from tests.train import tiny

LARGE = experiment.Config(
    model=llama.PRESETS["llama3_1_405b"].replace(dtype="bfloat16"),
    total_tokens=15_600_000_000_000,
    batch_size=2048,
    seq_len=8192,
    mesh=meshes.Config(fsdp=512, tensor=8),
)


@pytest.fixture(scope="module")
def large():
    """(text, seconds of one core) for a model that fits no machine."""
    begin = time.process_time()
    return describe(LARGE, {}), time.process_time() - begin


def small(**changes):
    return experiment.from_dict(tiny.fields("hybrid") | changes)


@pytest.fixture(scope="module")
def hybrid():
    return describe(small(seed=3), {"seed": 3})


def test_a_model_that_fits_no_machine_is_described_in_seconds(large):
    assert large[1] < 10


def test_parameters_are_listed_and_summed(large):
    text = large[0]
    assert "| layers/scan_0_1/0/attention/query | (126, 16384, 128, 128) | layers, embed, heads, head_dim |" in text
    assert "405,853,388,800 trained, 0 not trained; a token meets 405,853,388,800 of 405,853,388,800" in text


def test_what_each_sublayer_takes_on_this_device_is_a_table(hybrid):
    assert "## Implementations on cpu\n\n| sublayer | operation | by |" in hybrid
    assert "\n| mamba | selective scan | xla |\n" in hybrid and "\n| moe | grouped perceptron | blocks |" in hybrid


def test_what_decoding_remembers_is_a_table(hybrid):
    (short, long) = re.findall(r"\| mamba \| ([\d,]+) \| ([\d,]+) \|", hybrid)[0]
    assert short == long



def test_weights_lie_as_the_mesh_splits_them(large):
    assert "On a mesh of data 1, stage 1, fsdp 512, expert 1, context 1, tensor 8, activations" in large[0]
    gib = dict(re.findall(r"\| (\w+) \| ([\d.]+) \|", large[0]))
    assert float(gib["parameters"]) == pytest.approx(405.85e9 * 4 / 4096 / 2**30, rel=0.01)
    assert float(gib["optimizer"]) == pytest.approx(2 * float(gib["parameters"]), abs=0.002)


def test_tokens_and_flops_are_those_of_the_run(large):
    assert f"929,833 steps: {929_833 * 2048 * 8192:,} tokens" in large[0]
    (flops,) = re.findall(r"([\d.e+]+) the run", large[0])
    assert float(flops) == pytest.approx(3.8e25, rel=0.08)  # Llama Team, 2024, arXiv 2407.21783, sec. 1


def test_a_token_meets_only_its_experts(hybrid):
    idle = 2 * 3 * 24 * 16  # one of three experts in each of two layers
    (numbers,) = re.findall(r"a token meets ([\d,]+) of ([\d,]+)", hybrid)
    met, total = (int(number.replace(",", "")) for number in numbers)
    assert total - met == idle


def test_what_the_command_line_changed_is_marked(hybrid):
    assert "\n* seed = 3\n" in hybrid and "\n  batch_size = 8\n" in hybrid
    assert "\n  model.layers.pattern[0].sublayers[0].name = 'mamba'\n" in hybrid
    assert "\n* model.layers.pattern[1].sublayers[0].num_heads = 8\n" in describe(small(), {"model.layers.pattern": ()})


def test_epochs_of_an_unread_text_are_not_guessed():
    text = describe(small(total_steps=0, total_epochs=2.0), {})
    assert "2 epochs of a text that is not read here" in text and "the run\n" not in text


def test_a_warm_up_may_be_in_percents():
    assert "70 steps" in describe(small(total_steps=70, optimizer=dict(warmup_percent=10.0)), {})


def test_a_batch_that_the_mesh_cannot_split_is_refused():
    with pytest.raises(ValueError, match="batch_size=8 / micro_batches=1 must be a multiple of mesh.data"):
        describe(small(mesh=dict(data=3)), {})


def test_run_py_describes_without_a_workdir():
    done = run_process("--config=tests/tiny_config.py:mlp", "--mode=describe", "--config.seed=3")
    assert done.status == 0 and "* seed = 3" in done.out and done.error == ""
