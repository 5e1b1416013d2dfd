"""The configs of tasks that are not the next token, from the command line to an evaluation; tiny."""

import json

import pytest

from tests.commands import Server
from tests.train import tiny

pytestmark = pytest.mark.slow
SMALL = [
    "--config.total_steps=4", "--config.batch_size=8", "--config.seq_len=24", "--config.log_every_steps=2",
    "--config.model.vocab_size=300", "--config.data.tokenizer.vocab_size=300", "--config.data.piece_chars=97",
]  # fmt: skip
RUNS = {
    "bert": ["--config=configs/bert.py", "--config.model.layers.repeats=1"],
    "roberta": ["--config=configs/bert.py:pairs=false", "--config.model.layers.repeats=1"],
    "t5": ["--config=configs/t5.py"],
}


@pytest.fixture(scope="module")
def command():
    with Server() as server:
        yield server


@pytest.fixture(scope="module", params=RUNS)
def run(request, command, tmp_path_factory):
    """The command line of a trained run, its kind, and how it ended."""
    folder = tmp_path_factory.mktemp(request.param)
    text = f"--config.data.path={tiny.write_text(folder / 'text.txt')}"
    line = [*RUNS[request.param], f"--workdir={folder / 'run'}", text, *SMALL]
    return request.param, line, command(*line)


def test_it_trains_and_its_evaluation_is_printed_again(run, command):
    kind, line, trained = run
    assert trained.status == 0, trained.error
    workdir = next(word for word in line if word.startswith("--workdir")).partition("=")[2]
    printed = command(*line, "--mode=eval")
    assert printed.status == 0, printed.error
    last = [point for point in tiny.metrics(workdir) if "eval/valid/loss" in point][-1]
    told = {name: value for name, value in json.loads(printed.out).items() if name.startswith("eval/")}
    assert told == {name: pytest.approx(last[name], rel=1e-4) for name in told}
    names = {"loss", "accuracy", "ppl", "bits_per_byte"}
    names |= {"next_sentence_loss", "next_sentence_accuracy"} if kind == "bert" else set()
    assert told.keys() == {f"eval/valid/{name}" for name in names}


def test_it_has_no_text_to_go_on_with(run, command):
    _, line, _ = run
    done = command(*line, "--mode=generate", "--prompt=a")
    assert done.status == 2 and "must be 'decoder' here: this mode is about the next token" in done.error


def test_another_task_is_refused_by_its_name(run, command):
    kind, line, _ = run
    other = {"bert": "pairs=false", "roberta": "pairs=true"}.get(kind)
    changed = [f"--config=configs/bert.py:{other}", *line[1:]] if other else [*line, "--config.task.density=0.3"]
    done = command(*changed)
    field = "task.next_sentence" if other else "task.density"
    assert done.status == 2 and "Traceback" not in done.error and field in done.error
