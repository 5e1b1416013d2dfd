"""The loop: one trace, a donated state, one line of metrics a step, and an end at numbers that are not finite."""

import contextlib
import re
import threading
from unittest import mock

import jax
import pytest

from arch.train import loop, modes, program, provenance
from arch.train import state as states
from arch.train.startup import Startup
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def seen():
    """How often the step was traced, the state that the run began with, and its log."""
    return {"traces": 0, "first": None, "log": []}


@pytest.fixture(scope="module")
def workdir(quick, tmp_path_factory, text, seen):
    """A whole run."""
    make_step, init = program.train_step, states.init

    def counting(*args, **kwargs):
        step = make_step(*args, **kwargs)

        def traced(*values):
            seen["traces"] += 1
            return step(*values)

        return traced

    def keeping(*args):
        seen["first"] = init(*args)
        return seen["first"]

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "train_step", counting)
        patch.setattr(states, "init", keeping)
        patch.setattr(loop.log, "info", lambda text, *values: seen["log"].append(text % values))
        tiny.train(tiny.config(text), folder)
    return folder


@pytest.mark.parametrize("fails", ["start", "Logger", "Tracer"])
def test_a_start_that_fails_leaves_no_thread(text, tmp_path, monkeypatch, fails):
    def fail(*args, **kwargs):
        raise OSError("no space")

    before = set(threading.enumerate())
    monkeypatch.setattr(loop, fails, fail)
    with pytest.raises(OSError, match="no space"):
        tiny.train(tiny.config(text), tmp_path)
    assert not [thread for thread in set(threading.enumerate()) - before if "watch" in thread.name]


def test_what_fails_at_the_end_keeps_nothing_else_from_being_closed():
    run, closed = object.__new__(loop.Run), []
    run._opened = contextlib.ExitStack()
    run._opened.callback(closed.append, "logger")
    run.main, run.watch, run.clock = True, mock.Mock(), mock.Mock()
    run.step, run.cfg = 1, mock.Mock(total_steps=2)
    run.ledger = mock.Mock(**{"write.side_effect": OSError("no space")})
    with pytest.raises(OSError, match="no space"):
        run.close()
    assert closed == ["logger"]


def test_the_step_is_traced_once(workdir, seen):
    assert seen["traces"] == 1


def test_the_log_says_what_each_sublayer_takes_before_the_step_is_compiled(workdir, seen):
    [said] = [i for i, line in enumerate(seen["log"]) if line == "mlp: all by 'xla' on cpu"]
    [compiled] = [i for i, line in enumerate(seen["log"]) if line.startswith("compiled the step")]
    assert said < compiled


def test_the_state_is_donated(workdir, seen):
    leaves = jax.tree_util.tree_leaves_with_path(seen["first"])
    assert not [path for path, leaf in leaves if leaf.size > 1 and not leaf.is_deleted()]


def test_the_loss_falls(workdir):
    losses = tiny.losses(workdir)
    assert losses[-1] < losses[0] - 0.1


def test_every_step_is_logged_once(workdir):
    assert [step for step, name, _ in tiny.curve(workdir) if name == "train/loss"] == list(range(1, 11))


def test_histograms_take_no_time_of_a_step():
    run, events = mock.MagicMock(step=6), []

    def told(name, result=None):
        return lambda *_: events.append(name) or result

    @contextlib.contextmanager
    def paused():
        events.append("pause")
        yield
        events.append("go on")

    run.startup.seconds, run.tracer.begins.return_value, run.tracer.ends.return_value = {"step": 1.0}, False, False
    run.guard.settle, run.guard.take = told("settle", run.state), told("take", (run.state, {}))
    run.histograms.before, run.histograms.after = told("before"), told("after")
    run.logger.paused, run.logger.histograms = paused, told("write")
    loop.Run._take(run, {})
    assert events == ["settle", "pause", "before", "go on", "take", "settle", "pause", "after", "write", "go on"]


def test_evaluations_are_at_their_steps_and_at_the_end(workdir):
    assert [step for step, name, _ in tiny.curve(workdir) if name == "eval/valid/bits_per_byte"] == [4, 8, 10]


def test_the_logged_learning_rate_is_the_one_of_the_step(workdir):
    rates = [value for _, name, value in tiny.curve(workdir) if name == "train/learning_rate"]
    assert rates[:4] == pytest.approx([0.0, 0.01 / 3, 0.02 / 3, 0.01])


def test_bits_per_byte_is_nats_over_ln_2_for_bytes(workdir):
    """With the byte tokenizer a token is a byte, but for separators, which are none."""
    lines = [line for line in tiny.metrics(workdir) if "train/loss" in line]
    for line in lines:
        assert line["train/bits_per_byte"] >= line["train/nats_per_token"] / 0.6931472


def test_a_finished_run_evaluates_nothing_anew(workdir, text):
    before = tiny.metrics(workdir)
    (last,) = [line for line in before if "eval/valid/loss" in line and line["step"] == 10]
    assert {"step": 10, **tiny.train(tiny.config(text), workdir)} == last
    assert tiny.metrics(workdir) == before


def test_a_finished_run_keeps_the_config_that_it_had(workdir, text):
    tiny.train(tiny.config(text, **{"optimizer.learning_rate": 0.5}), workdir)
    assert provenance.read_config(workdir)["optimizer"]["learning_rate"] == 0.01


def test_a_loss_that_is_not_finite_ends_the_run_with_its_name_step_and_samples(text, tmp_path, capsys):
    huge = {"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0}
    cfg = tiny.config(text, checkpoint_every_steps=1, **huge)
    with pytest.raises(SystemExit) as end:
        modes.train(cfg, str(tmp_path), {}, Startup())
    assert end.value.code not in (0, None)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    pattern = r"error: (loss|\w+_norm) is (nan|inf) at step (\d+), in the batch with sample ids \[(.*?)\]"
    found = re.search(pattern, line)
    assert found, line
    step = int(found[3])
    assert [int(i) for i in found[4].split(", ")] == list(range(8 * step - 8, 8 * step))
    steps = [int(folder.name) for folder in (tmp_path / "checkpoints").iterdir() if folder.name.isdecimal()]
    assert all(saved < step for saved in steps)
