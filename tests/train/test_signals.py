"""SIGTERM and SIGINT, whenever they come: a complete checkpoint, one line, status 0, and the same command goes on."""

import re
import signal
import subprocess
import threading

import pytest

from arch.train import loop, program, seal
from tests.train import tiny

PHASES = ["compile", "training", "evaluation", "saving"]


def silent_behind(count, send, batches):
    """So many of the batches; then the signal, and no more until the test is over."""
    for _ in range(count):
        yield next(batches)
    send()
    threading.Event().wait()


@pytest.fixture(scope="module")
def cfg(text):
    return tiny.config(text)


@pytest.fixture(scope="module")
def whole(quick, cfg, tmp_path_factory):
    """The curve of a run that nobody interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    tiny.train(cfg, workdir)
    return tiny.curve(workdir)


def first(function, send):
    """The function, with a call of `send` in front of its first call."""
    calls = []

    def called(*args, **kwargs):
        if not calls:
            send()
        calls.append(args)
        return function(*args, **kwargs)

    return called


def train_with_a_signal(number, phase, cfg, workdir, monkeypatch):
    """Trains in this process; the signal comes in the middle of the phase."""
    send = lambda: signal.raise_signal(number)
    ready = tiny.prepare(cfg, workdir)
    line = "step 3/10" if phase == "training" else "no such line"
    if phase == "compile":
        make = program.train_step
        monkeypatch.setattr(program, "train_step", lambda *args, **kwargs: first(make(*args, **kwargs), send))
    if phase == "evaluation":
        vars(ready)["eval_step"] = first(ready.eval_step, send)
    if phase == "data":
        read = loop.dataset.batches
        monkeypatch.setattr(loop.dataset, "batches", lambda *args: silent_behind(3, send, read(*args)))
    if phase == "saving":
        monkeypatch.setattr(seal, "seal", first(seal.seal, send))
    with tiny.at_line(line, send):
        assert loop.train(ready, {}) == {}
    monkeypatch.undo()


@pytest.mark.parametrize("phase", [*PHASES, "data"])
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_stops_the_run_and_the_same_run_goes_on(
    name, phase, quick, cfg, whole, tmp_path, monkeypatch, capfd, caplog
):
    caplog.set_level("INFO", logger="arch")
    train_with_a_signal(signal.Signals[name], phase, cfg, tmp_path, monkeypatch)
    assert capfd.readouterr().err.count(f"{name}: stopping at the next safe point") == 1
    (stopped,) = [line for line in caplog.messages if line.startswith(f"{name}: stopped at step ")]
    step = int(re.search(r"at step (\d+) of 10", stopped)[1])
    # In training the line of step 3 comes while the device is at step 4.
    assert {
        "compile": step == 0,
        "training": step == 4,
        "evaluation": step == 4,
        "saving": step >= 4,
        "data": step in (2, 3),
    }[phase]
    assert tiny.steps_in(tmp_path)[-1:] == ([step] if step else [])
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    tiny.train(cfg, tmp_path)
    assert tiny.curve(tmp_path) == whole


LINES = {
    "compile": "compiling the step",
    "training": "step 300/1500",
    "evaluation": "step 500/1500",
    "saving": "step 500: eval",
}
LONG = ["--config.total_steps=1500", *(f"--config.{what}_every_steps=500" for what in ("eval", "checkpoint"))]


def stop(process, name, line):
    """Sends the signal when the program writes a line that holds `line`; returns what it writes after that."""
    for written in process.stderr:
        if line in written:
            process.send_signal(signal.Signals[name])
            break
    rest = process.stderr.read()
    assert process.wait() == 0, rest
    return rest


def check_program(name, phase, text, tmp_path, cache):
    """Stops run.py with a signal in a phase, and lets the same command finish."""
    start = lambda: subprocess.Popen(
        tiny.command(text, tmp_path / "run", "mlp", "--config.log_every_steps=100", *LONG),
        env=tiny.environment(cache),
        stderr=subprocess.PIPE,
        text=True,
    )
    with start() as process:
        rest = stop(process, name, LINES[phase])
    assert len(re.findall(rf"^{name}: stopped at step \d+ of 1500", rest, re.MULTILINE)) == 1
    with start() as process:
        assert process.wait() == 0, process.stderr.read()
    steps = [step for step, metric, _ in tiny.curve(tmp_path / "run") if metric == "train/loss"]
    assert steps == list(range(100, 1501, 100))


@pytest.mark.slow
def test_run_py_ends_with_status_0_at_a_signal_and_goes_on(text, tmp_path, cache_dir):
    check_program("SIGTERM", "training", text, tmp_path, cache_dir)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_run_py_ends_with_status_0_at_every_signal_in_every_phase(name, phase, text, tmp_path, cache_dir):
    check_program(name, phase, text, tmp_path, cache_dir)
