"""Runs of a sweep: each point in a process of its own, recorded however it ends; end to end by run.py."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from arch import config
from arch.train import evaluation, modes, results, sweep_runs
from arch.train.startup import Startup
from tests.commands import ROOT, Server
from tests.train import tiny

CONFIG = """
from arch import hyper
from tests.train import tiny

get_config = tiny.get_config

def sweep():
    return POINTS
"""
RATES = "hyper.sweep('optimizer.learning_rate', [0.01, 0.02])"


def write_config(folder, points=RATES):
    path = folder / "config.py"
    path.write_text(CONFIG.replace("POINTS", points))
    return str(path)


def statuses(workdir):
    return {result.index: result.status for result in results.read(workdir)}


# A point in this process, whose training is a stand-in.


def run_point(tmp_path, monkeypatch, train, index=0, points=RATES, **overrides):
    todo = sweep_runs.check(write_config(tmp_path, points), overrides, str(tmp_path / "run"))
    monkeypatch.setattr(modes, "train", train)
    sweep_runs.run_point(todo, index, overrides, Startup(), main=True)


def trained(cfg, workdir, overrides, startup, hparams):
    """As if it had trained to the end."""
    write_run(workdir, cfg.total_steps, cfg)
    return {"eval/valid/loss": 1.0}


def write_run(workdir, step, cfg):
    os.makedirs(f"{workdir}/checkpoints/{step}", exist_ok=True)
    with open(f"{workdir}/config.json", "w") as file:
        json.dump({"format_version": config.FORMAT_VERSION, "config": config.to_dict(cfg)}, file)


def test_a_point_that_trained_to_the_end_is_finished_and_is_not_run_again(tmp_path, monkeypatch):
    calls = []
    train = lambda *args: calls.append(args) or trained(*args)
    for _ in range(2):
        run_point(tmp_path, monkeypatch, train, index=1, batch_size=16)
    assert statuses(tmp_path / "run") == {1: "finished"}
    ((cfg, workdir, overrides, _, hparams),) = calls
    assert (cfg.optimizer.learning_rate, cfg.batch_size) == (0.02, 16)
    assert workdir == str(tmp_path / "run" / "1-learning_rate=0.02")
    assert overrides == {"batch_size": 16, "optimizer.learning_rate": 0.02}
    assert hparams == {"optimizer.learning_rate": 0.02}


def test_hyperparameters_are_what_the_points_vary_with_the_value_that_each_has(tmp_path, monkeypatch):
    seen = []
    train = lambda *args: seen.append(args[-1]) or trained(*args)
    points = "[{'seed': 0, 'batch_size': 8}, {'seq_len': 31, 'batch_size': 8}, {'arg': 'hybrid', 'batch_size': 8}]"
    for index in range(3):
        run_point(tmp_path, monkeypatch, train, index, points)
    assert seen[1:] == [{"seed": 0, "seq_len": 31, "arg": ""}, {"seed": 0, "seq_len": 29, "arg": "hybrid"}]


def test_a_finished_point_goes_on_when_its_run_is_to_be_longer(tmp_path, monkeypatch):
    calls = []
    train = lambda cfg, *args: calls.append(cfg.total_steps) or trained(cfg, *args)
    for steps in (10, 20, 20):
        run_point(tmp_path, monkeypatch, train, total_steps=steps)
    assert calls == [10, 20]


def test_a_finished_point_keeps_its_config(tmp_path, monkeypatch):
    run_point(tmp_path, monkeypatch, trained, index=1)
    given, workdir = write_config(tmp_path), str(tmp_path / "run")
    with pytest.raises(ValueError, match=r"point 1 \(.*\): .* is done, with another config: optimizer.b2: .* -> 0.5. "):
        sweep_runs.check(given, {"optimizer.b2": 0.5}, workdir)
    with pytest.raises(ValueError, match="optimizer.b2: .* -> 0.5"):  # however much longer its run is to be
        sweep_runs.check(given, {"optimizer.b2": 0.5, "total_steps": 20}, workdir)
    sweep_runs.check(given, {"mesh.data": 2, "eval_every_steps": 2, "total_steps": 20}, workdir)


def test_a_point_that_is_not_finished_may_go_on_with_another_config(tmp_path, monkeypatch):
    run_point(tmp_path, monkeypatch, lambda cfg, workdir, *_: write_run(workdir, 9, cfg) or {})
    run_point(tmp_path, monkeypatch, trained, **{"optimizer.b2": 0.5})
    (result,) = results.read(tmp_path / "run")
    assert result.status == "finished" and result.config["optimizer"]["b2"] == 0.5


def test_a_point_that_a_signal_ended_early_is_stopped(tmp_path, monkeypatch):
    run_point(tmp_path, monkeypatch, lambda cfg, workdir, *_: write_run(workdir, 9, cfg) or {})
    (result,) = results.read(tmp_path / "run")
    assert (result.status, result.step, result.error) == ("stopped", 9, "")


def test_a_point_is_finished_only_behind_its_last_evaluation(text, tmp_path, monkeypatch, quick):
    changes, train, evaluate = {"data.path": str(text), "total_steps": 4}, modes.train, evaluation.evaluate
    cut = lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM) or evaluate(*args, **kwargs)
    monkeypatch.setattr(evaluation, "evaluate", cut)
    run_point(tmp_path, monkeypatch, train, **changes)
    (result,) = results.read(tmp_path / "run")
    assert (result.status, result.step, result.last) == ("stopped", 4, {})
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    run_point(tmp_path, monkeypatch, train, **changes)
    (result,) = results.read(tmp_path / "run")
    assert (result.status, result.step) == ("finished", 4) and "eval/valid/loss" in result.last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_stops_the_point(tmp_path, monkeypatch, number):
    before = signal.getsignal(signal.SIGTERM)
    run_point(tmp_path, monkeypatch, lambda *_: signal.raise_signal(number))
    assert statuses(tmp_path / "run") == {0: "stopped"}
    assert signal.getsignal(signal.SIGTERM) is before


def crash(*_):
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nof 3 GiB")


def refuse(*_):
    with modes.one_line_errors(ValueError):
        raise ValueError("seq_len=9 must be\n  below 5")


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [
        (crash, RuntimeError, "RuntimeError: RESOURCE_EXHAUSTED: out of memory"),
        (refuse, SystemExit, "seq_len=9 must be below 5"),
    ],
)
def test_a_point_that_fails_says_why_and_is_tried_again(tmp_path, monkeypatch, capfd, train, kind, message):
    with pytest.raises(kind):
        run_point(tmp_path, monkeypatch, train)
    (result,) = results.read(tmp_path / "run")
    assert (result.status, result.error) == ("failed", message)
    run_point(tmp_path, monkeypatch, trained)
    (again,) = results.read(tmp_path / "run")
    assert (again.status, again.error) == ("finished", "") and again.seconds >= result.seconds


@pytest.mark.parametrize(
    ("points", "message"),
    {
        "another value": (RATES.replace("0.02", "0.03"), r"point 1 \(.*0\.02\) of .* is .*0\.03\) now"),
        "another order": (RATES.replace("0.01, 0.02", "0.02, 0.01"), r"point 1 \(.*0\.02\) of .* is .*0\.01\) now"),
        "another leaf": ("[{}, {'seed': 3}]", r"point 1 \(.*0\.02\) of .* is point 1 \(seed=3\) now"),
    }.values(),
)
def test_another_sweep_in_the_same_folder_is_refused(tmp_path, monkeypatch, points, message):
    run_point(tmp_path, monkeypatch, trained, index=1)
    with pytest.raises(ValueError, match=message):
        sweep_runs.check(write_config(tmp_path, points), {}, str(tmp_path / "run"))


def test_points_may_be_added_at_the_end(tmp_path, monkeypatch):
    run_point(tmp_path, monkeypatch, trained, index=1)
    longer = "hyper.sweep('optimizer.learning_rate', [0.01, 0.02, 0.03])"
    run_point(tmp_path, monkeypatch, trained, index=2, points=longer)
    assert statuses(tmp_path / "run") == {1: "finished", 2: "finished"}


def test_a_command_line_that_would_change_the_model_of_a_begun_point_is_refused(tmp_path, monkeypatch):
    run_point(tmp_path, monkeypatch, trained, index=1)
    with pytest.raises(ValueError, match=r"point 1 \(.*0\.02\): the run in .* model.embed_dim: 24 -> 48"):
        sweep_runs.check(write_config(tmp_path), {"model.embed_dim": 48}, str(tmp_path / "run"))


# All points in turn, each a small program instead of run.py.

PROGRAM = """
import json, os, pathlib, signal, sys, time
index = int(sys.argv[-1].removeprefix("--sweep_index="))
workdir = pathlib.Path({workdir!r})
(workdir / f"began-{{index}}").touch()
{body}
"""


def run_all(tmp_path, body, points="hyper.sweep('seed', range(3))"):
    todo = sweep_runs.check(write_config(tmp_path, points), {}, str(tmp_path))
    failed = sweep_runs.run_all(todo, ["-c", PROGRAM.format(workdir=str(tmp_path), body=body)])
    return failed, {result.index: (result.status, result.error) for result in results.read(tmp_path)}


def began(tmp_path):
    return sorted(int(file.name.removeprefix("began-")) for file in tmp_path.glob("began-*"))


def test_a_point_that_crashes_is_recorded_and_the_others_go_on(tmp_path):
    failed, states = run_all(tmp_path, "os.kill(os.getpid(), signal.SIGKILL) if index == 1 else sys.exit(index + 3)")
    assert failed == 3 and began(tmp_path) == [0, 1, 2]
    assert states == {
        0: ("failed", "ended with exit status 3"),
        1: ("failed", "killed by SIGKILL"),
        2: ("failed", "ended with exit status 5"),
    }
    assert [row["index"] for row in json.loads((tmp_path / "results.json").read_text())] == [0, 1, 2]


@pytest.mark.parametrize("status", [0, 2])
def test_an_attempt_that_wrote_no_record_is_not_judged_by_the_one_before(tmp_path, monkeypatch, status):
    run_point(tmp_path, monkeypatch, lambda *_: {}, points="[{}]")
    assert statuses(tmp_path / "run") == {0: "stopped"}
    failed, states = run_all(tmp_path / "run", f"sys.exit({status})", "[{}]")
    assert failed == 1 and states == {0: ("failed", f"ended with exit status {status}")}


@pytest.fixture
def hang_up():
    """Sets what SIGHUP does."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda action: signal.signal(signal.SIGHUP, action)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)],
)
def test_a_signal_goes_to_the_point_that_runs_and_ends_the_sweep(tmp_path, hang_up, sent, heard):
    body = f"""
signal.signal({int(heard)}, lambda *_: (workdir / "heard").touch())
os.kill(os.getppid(), {int(sent)})
while not (workdir / "heard").exists():
    time.sleep(0.01)
"""
    hang_up(signal.SIG_DFL)
    failed, states = run_all(tmp_path, body)
    assert failed == 0 and began(tmp_path) == [0] and states == {0: ("stopped", "")}


def test_under_nohup_a_sweep_goes_on_without_its_terminal(tmp_path, hang_up):
    hang_up(signal.SIG_IGN)
    _, states = run_all(tmp_path, "os.kill(os.getppid(), signal.SIGHUP); sys.exit(3)", "[{}]")
    assert states == {0: ("failed", "ended with exit status 3")}


def test_a_terminal_s_ctrl_c_reaches_a_point_once(tmp_path):
    _, states = run_all(tmp_path, "sys.exit(9 if os.getpgrp() == os.getpid() else 10)", "[{}]")
    assert states == {0: ("failed", "ended with exit status 9")}


# By run.py.


@pytest.fixture(scope="module")
def swept(text, cache_dir, tmp_path_factory):
    """A sweep of a point that finishes, one whose corpus is missing, and one that finishes; how it ended."""
    folder = tmp_path_factory.mktemp("swept")
    points = f"[{{'data.path': {str(text)!r}}}, {{'data.path': 'absent'}}, {{'data.path': {str(text)!r}, 'seed': 1}}]"
    arguments = [f"--config={write_config(folder, points)}", f"--workdir={folder / 'run'}", "--mode=sweep"]
    command, env = [sys.executable, "run.py", *arguments, "--config.total_steps=4"], tiny.environment(cache_dir)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    return folder / "run", arguments, done


def test_run_py_runs_all_points_of_a_sweep(swept):
    workdir, _, done = swept
    assert done.returncode == 1 and done.stdout == "", done
    assert re.search(r"^2 of 3 points finished: .*results.tsv$", done.stderr, re.MULTILINE)
    assert re.search(r"^point 1 failed: data.path='absent' must be", done.stderr, re.MULTILINE)
    assert statuses(workdir) == {0: "finished", 1: "failed", 2: "finished"}
    (first, second, third) = results.read(workdir)
    assert (first.step, second.step, third.step) == (4, 0, 4) and first.last and first.last != third.last
    overrides = json.loads((workdir / third.folder / "overrides.json").read_text())
    assert overrides == {"total_steps": 4} | third.overrides and overrides["seed"] == 1


def test_tensorboard_compares_what_the_sweep_varies_with_the_last_evaluation(swept):
    workdir, _, _ = swept
    runs = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(workdir))
    provider = data_provider.MultiplexerDataProvider(runs.Reload(), str(workdir))
    board = backend_context.Context(base_plugin.TBContext(data_provider=provider, multiplexer=runs))
    request, experiment = context.RequestContext(), ""
    table = board.experiment_from_metadata(
        request, experiment, True, board.hparams_metadata(request, experiment),
        provider.list_hyperparameters(request, experiment_ids=[experiment]),
    )  # fmt: skip
    assert {info.name for info in table.hparam_infos} == {"data.path", "seed"}
    columns = [api_pb2.ColParams(metric=info.name) for info in table.metric_infos]
    wanted = api_pb2.ListSessionGroupsRequest(
        col_params=columns, allowed_statuses=range(4), slice_size=9, include_metrics=True
    )
    groups = list_session_groups.Handler(request, board, experiment, wanted).run().session_groups
    shown = {g.hparams["seed"].number_value: {m.name.tag: m.value for m in g.metric_values} for g in groups}
    first, _, third = results.read(workdir)
    assert shown == {0: pytest.approx(first.last), 1: pytest.approx(third.last)}


def test_a_process_runs_the_point_of_a_job_array_that_it_is_given(swept, tmp_path):
    _, arguments, _ = swept
    with Server() as command:
        again = [*arguments, "--config.total_steps=4"]
        done = command(*again, "--sweep_index=2")
        assert done.status == 0 and "is finished already" in done.error
        failed = command(*again, "--sweep_index=1")
        assert failed.status == 2 and "data.path='absent' must be" in failed.error
        none = command(*again, "--sweep_index=3")
        assert none.status == 2 and none.error == "error: --sweep_index=3 must be below 3, the number of points\n"
        other = command(*again, "--config.seed=2")
        assert other.status == 2 and "seed is set by the sweep, --config.seed by the command line" in other.error
        train = command(*again[:2], "--sweep_index=1")
        assert train.status == 2 and train.error == "error: --sweep_index=1 needs --mode=sweep\n"
        hosts = command(*again, "--multihost")
        assert hosts.status == 2 and "--multihost needs --sweep_index" in hosts.error


@pytest.mark.slow
def test_sigterm_stops_a_sweep_with_a_checkpoint_and_the_same_command_goes_on(text, cache_dir, tmp_path):
    def start(steps, *more):
        command = [
            sys.executable, "run.py", f"--config={write_config(tmp_path)}", f"--workdir={tmp_path / 'run'}", *more,
            "--mode=sweep", "--config.eval_every_steps=0", f"--config.data.path={text}",
            f"--config.total_steps={steps}",
        ]  # fmt: skip
        return subprocess.Popen(command, cwd=ROOT, env=tiny.environment(cache_dir), stderr=subprocess.PIPE, text=True)

    with start(100_000) as process:
        for line in process.stderr:
            if "step 20/" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
        assert process.wait() == 0, rest
    assert "SIGTERM: stopped at step" in rest and "stopped at point 0 of 2" in rest
    (result,) = results.read(tmp_path / "run")
    assert result.status == "stopped" and tiny.steps_in(tmp_path / "run" / result.folder)[-1] == result.step >= 20
    assert statuses(tmp_path / "run") == {0: "stopped"}
    with start(result.step + 1, "--sweep_index=0") as process:
        _, rest = process.communicate()
        assert process.returncode == 0, rest
    assert rest.count(f"resumed step {result.step}") == 1
    assert statuses(tmp_path / "run") == {0: "finished"}
