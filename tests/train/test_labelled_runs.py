"""From a file of labelled records to a trained model, by run.py: it learns, and goes on where it stopped."""

import json
import shutil

import pytest

from tests import commands
from tests.train import tiny, tiny_labelled

CONFIG = tiny.ROOT / "tests" / "train" / "tiny_labelled.py"


@pytest.fixture(scope="module")
def server():
    with commands.Server() as run:
        yield run


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("tagging", "chat")]


@pytest.fixture(scope="module", params=["classification", *SLOW])
def run(request, server, tmp_path_factory):
    """A finished run: what it was asked with, its task, its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    text = tiny_labelled.write(folder / "records.jsonl", request.param)
    command = (f"--config={CONFIG}:{request.param}", f"--config.data.path={text}", f"--workdir={folder / 'run'}")
    command += (f"--jax_compilation_cache_dir={folder}", "--jax_persistent_cache_min_compile_time_secs=0")
    done = server(*command)
    assert done.status == 0, done.error
    return command, request.param, folder / "run"


def evaluations(workdir):
    return [line for line in tiny.metrics(workdir) if "eval/valid/loss" in line]


def test_it_learns_more_than_what_is_likeliest(run):
    _, task, workdir = run
    first, last = evaluations(workdir)
    assert last["eval/valid/loss"] < first["eval/valid/loss"]
    # Of classes and tags a third is right by guessing.
    assert last["eval/valid/accuracy"] > {"classification": 0.8, "tagging": 0.95, "chat": 0.8}[task]


def test_a_resumed_run_ends_where_it_would_have(run, server):
    command, _, workdir = run
    before = evaluations(workdir)[-1]
    shutil.rmtree(workdir / "checkpoints" / "60")
    assert server(*command).status == 0
    after = evaluations(workdir)[-1]
    assert after["step"] == 60 and after["eval/valid/loss"] == before["eval/valid/loss"]


def test_evaluation_alone_prints_the_same(run, server):
    command, _, workdir = run
    printed = json.loads(server(*command, "--mode=eval").out)
    assert printed["eval/valid/loss"] == pytest.approx(evaluations(workdir)[-1]["eval/valid/loss"], rel=1e-6)


def test_a_chat_model_made_here_answers(run, server):
    command, task, workdir = run
    done = server(f"--workdir={workdir}", "--mode=generate", "--chat", "--prompt=moon", "--temperature=0")
    if task == "chat":
        assert (done.status, done.out) == (0, "moon!\n")
    else:
        assert done.status == 2 and "model.name='encoder' must be 'decoder'" in done.error


def test_a_head_of_other_labels_is_refused_by_their_names(run, server, tmp_path):
    command, task, _ = run
    if task == "chat":
        pytest.skip("it has no labels")
    done = server(*command[:2], f"--workdir={tmp_path}", "--config.model.head.num_labels=5")
    assert done.status == 2 and "model.head.num_labels=5 must be 3, the labels of the train split:" in done.error


def test_data_of_another_kind_are_refused(run, server, tmp_path):
    command, task, _ = run
    done = server(*command[:2], f"--workdir={tmp_path}", "--config.data.kind=text")
    assert done.status == 2 and "data.kind='text' must be '" in done.error and f"with task.name={task!r}" in done.error
