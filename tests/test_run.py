"""run.py end to end on a tiny hybrid: train, the same command again, evaluate, generate, load."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import arch
from arch import config, tree
from tests.commands import ROOT, Server, run_process

CONFIG = f"--config={ROOT / 'tests' / 'tiny_config.py'}:repeats=2"
PROMPTS = ("The number ", "7")
NEW = 5


@pytest.fixture(scope="module")
def command_line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("".join(f"The number {i} is twice {i / 2}.\n" for i in range(1500)))
    return CONFIG, f"--workdir={folder / 'run'}", f"--config.data.path={folder / 'text.txt'}"


@pytest.fixture(scope="module")
def trained(command_line):
    """The result of training, in a process of its own."""
    done = run_process(*command_line, "--config.optimizer.learning_rate=0.01", "--jax_disable_most_optimizations=True")
    assert done.status == 0, done.error
    return done


@pytest.fixture(scope="module")
def workdir(command_line, trained):
    return ROOT / command_line[1].removeprefix("--workdir=")


@pytest.fixture(scope="module")
def command(workdir):
    """Runs further commands on the run, in one process."""
    with Server() as server:
        yield lambda *arguments: server(f"--workdir={workdir}", *arguments)


def generate(command, *prompts):
    """The ids that greedily continue each prompt."""
    flags = ["--mode=generate", "--print_ids", "--temperature=0", f"--max_new_tokens={NEW}"]
    done = command(*flags, *(f"--prompt={prompt}" for prompt in prompts))
    assert done.status == 0 and done.error == "", done.error
    lines = done.out.splitlines()
    assert len(lines) == len(prompts) and all(re.fullmatch(r"\d+( \d+)*", line) for line in lines), done.out
    return [[int(word) for word in line.split()] for line in lines]


@pytest.fixture(scope="module")
def generated(command):
    """What the batch of prompts of different length becomes."""
    return generate(command, *PROMPTS)


def metrics(workdir, name="step"):
    """The lines of metrics that hold `name`."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if name in line]


def test_the_step_compiles_once(trained):
    assert trained.error.count("compiled the step") == 1


def test_training_reports_its_progress(trained):
    assert re.findall(r"step (\d)/6  loss \d", trained.error) == ["2", "4", "6"]
    assert re.findall(r"step (\d): eval/valid/loss", trained.error) == ["3", "6"]


def test_the_log_says_what_the_flops_are_and_why_there_is_no_mfu(trained, workdir):
    assert re.search(r"model FLOPs a step = 3 .* no MFU: the peak of 'cpu' is not known", trained.error)
    lines = metrics(workdir, "perf/seconds_per_step")
    assert lines and all(line["perf/tflops_per_second"] > 0 and "perf/mfu" not in line for line in lines)


def test_each_line_of_metrics_has_a_step(workdir):
    steps = [line["step"] for line in metrics(workdir)]
    assert steps == sorted(steps) and all(type(step) is int for step in steps)


def test_metrics_hold_the_loss_at_each_logged_step(workdir):
    losses = {line["step"]: line["train/loss"] for line in metrics(workdir, "train/loss")}
    assert list(losses) == [2, 4, 6]
    assert losses[6] < losses[2]


SCALARS = [
    "train/loss", "train/bits_per_byte", "train/learning_rate", "train/gradient_norm", "train/parameter_norm",
    "perf/tokens_per_second", "perf/seconds_per_step", "perf/compile_seconds", "mem/peak_bytes",
    "eval/valid/loss", "eval/valid/bits_per_byte",
    *(f"moe/layers/{layer}/load/{expert}" for layer in (0, 2) for expert in range(3)),
]  # fmt: skip


@pytest.fixture(scope="module")
def events(workdir):
    """What TensorBoard reads."""
    return EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0}).Reload()


@pytest.mark.parametrize("name", SCALARS)
def test_tensorboard_shows_the_scalars_of_the_metrics(events, workdir, name):
    shown = [(event.step, event.value) for event in events.Scalars(name)]
    written = [(line["step"], line[name]) for line in metrics(workdir, name)]
    assert shown and shown == [(step, pytest.approx(value, rel=1e-6)) for step, value in written]


def test_tensorboard_shows_samples_of_text(events):
    samples = events.Tensors("sample/text_summary")
    assert [event.step for event in samples] == [3, 6]
    assert all(b"The " in event.tensor_proto.string_val[0] for event in samples)


def test_tensorboard_shows_the_table_of_parameters(events):
    (table,) = events.Tensors("parameters/text_summary")
    assert b"/mamba/A_log" in table.tensor_proto.string_val[0]


def test_tensorboard_shows_the_hyperparameters(events):
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optimizer.learning_rate" in content and b"model.embed_dim" in content


def test_the_workdir_holds_the_whole_config(workdir):
    held = json.loads((workdir / "config.json").read_text())
    assert held["format_version"] == config.FORMAT_VERSION
    assert held["config"]["optimizer"]["learning_rate"] == 0.01
    assert held["config"]["model"]["layers"]["pattern"][0]["sublayers"][0]["name"] == "mamba"


def test_the_workdir_holds_what_the_command_line_changed(workdir):
    changed = json.loads((workdir / "overrides.json").read_text())
    assert changed == {"data.path": str(workdir.parent / "text.txt"), "optimizer.learning_rate": 0.01}


def test_the_workdir_holds_versions_and_the_command(workdir):
    start = json.loads((workdir / "versions.json").read_text())[0]
    assert start["packages"].keys() >= {"jax", "flax", "optax", "orbax-checkpoint", "grain"}
    assert start["command"][1] == CONFIG


def test_the_same_command_again_finds_the_run_done(command, command_line, trained, workdir):
    before = metrics(workdir, "train/loss")
    done = command(command_line[0], command_line[2], "--config.optimizer.learning_rate=0.01", "--jax_debug_nans=True")
    assert done.status == 0, done.error
    assert f"resumed step 6 of {workdir}" in done.error and "step 6 of 6 is done already" in done.error
    assert "compiled the step" not in done.error
    assert metrics(workdir, "train/loss") == before


def test_flags_of_jax_take_effect(command, command_line):
    done = command(command_line[0], command_line[2], "--mode=eval", "--jax_log_compiles=True")
    assert done.status == 0 and "Compiling" in done.error


def test_evaluation_prints_json_with_the_loss_of_training(command, command_line, workdir):
    done = command(command_line[0], command_line[2], "--mode=eval", "--jax_log_compiles=False")
    assert done.status == 0 and done.error == ""
    printed = json.loads(done.out)
    last = metrics(workdir, "eval/valid/loss")[-1]
    assert printed == {name: pytest.approx(value, rel=1e-4) for name, value in last.items()}


def test_greedy_generation_is_deterministic(command, generated):
    assert generate(command, *PROMPTS) == generated


@pytest.mark.parametrize("row", range(len(PROMPTS)))
def test_a_prompt_in_a_batch_continues_as_alone(command, generated, row):
    assert generate(command, PROMPTS[row]) == [generated[row]]


def test_generation_prints_the_prompt_and_its_text(command, workdir, generated):
    done = command("--mode=generate", "--temperature=0", f"--max_new_tokens={NEW}", f"--prompt={PROMPTS[0]}")
    assert done.out == PROMPTS[0] + arch.load_tokenizer(workdir).decode(generated[0]) + "\n"


@pytest.fixture(scope="module")
def loaded(workdir):
    return arch.load(workdir)


def test_a_loaded_model_has_canonical_paths(loaded):
    _, params = loaded
    paths = tree.paths(params)
    assert {"embedding/table", "layers/0/mamba/A_log", "layers/2/moe/gate", "layers/3/attention/query"} <= paths.keys()
    assert not any("scan" in path for path in paths)


def test_generated_tokens_are_those_of_the_full_pass(loaded, workdir, generated):
    model, params = loaded
    tokenizer = arch.load_tokenizer(workdir)
    rows = [[tokenizer.separator, *tokenizer.encode(text), *new] for text, new in zip(PROMPTS, generated, strict=True)]
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)  # what is to the right changes nothing
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    best = jax.jit(lambda tokens: jnp.argmax(model.apply({"params": params}, tokens).x, axis=-1))(tokens)
    for row, new, after in zip(rows, generated, best.tolist(), strict=True):
        assert after[len(row) - len(new) - 1 : len(row) - 1] == new
