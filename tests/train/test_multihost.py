"""Two processes with two devices each, or four with one, train what one process with four devices trains."""

import json
import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from tests.train import tiny, without_data

pytestmark = pytest.mark.slow
MESH = ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
SAMPLES = ["--config.sample_prompt=each", "--config.sample.max_new_tokens=3"]


def start(text, workdir, cache, *flags, count=2, data=""):
    """The processes of a run on four devices; their standard error holds what they say.

    With `data` 'silent' or 'broken', process 0 has none behind some batches (tests/train/without_data.py).
    """
    program, *rest = tiny.command(text, workdir, "mlp", "--multihost", *MESH, *SAMPLES, *flags)
    command = [program, str(tiny.ROOT / "tests/train/without_data.py"), data, *rest[1:]] if data else [program, *rest]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for index in range(count):
        where = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}
        collectives = {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
        processes.append(
            subprocess.Popen(
                command,
                env=tiny.environment(cache / str(index), 4 // count) | where | collectives,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes, status=0):
    """Waits for all to end with this status; returns what they said."""
    said = []
    try:
        for process in processes:
            said.append(process.communicate(timeout=300)[1])
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * len(processes), said
    return said


def read_to(process, text):
    """Reads what a process says up to a line that holds this."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")


def alone(text, workdir, cache, *flags):
    """One process with four devices."""
    command = tiny.command(text, workdir, "mlp", *MESH, *SAMPLES, *flags)
    done = subprocess.run(command, env=tiny.environment(cache, 4), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory, cache_dir):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("whole")
    alone(text, workdir, cache_dir)
    return workdir


@pytest.fixture(scope="module")
def both(text, tmp_path_factory, cache_dir):
    """The run of two processes."""
    workdir = tmp_path_factory.mktemp("both")
    finish(start(text, workdir, cache_dir))
    return workdir


def test_the_losses_are_those_of_one_process(both, whole):
    np.testing.assert_allclose(tiny.losses(both), tiny.losses(whole), rtol=2e-5)


def test_the_metrics_are_written_once(both, whole):
    assert [point[:2] for point in tiny.curve(both)] == [point[:2] for point in tiny.curve(whole)]
    assert len(list((both / "tensorboard").iterdir())) == len(json.loads((both / "versions.json").read_text())) == 1


def test_a_stop_of_one_process_stops_both_and_one_process_goes_on(text, tmp_path, cache_dir):
    long = ["--config.total_steps=400", "--config.log_every_steps=50"]
    long += ["--config.eval_every_steps=0", "--config.checkpoint_every_steps=0"]
    processes = start(text, tmp_path, cache_dir, *long)
    read_to(processes[0], "step 50/400")
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes)
    assert "SIGTERM: stopped at step " in said[1] and "a signal to another process: stopped at step " in said[0]
    (stopped,) = tiny.steps_in(tmp_path)
    assert 50 <= stopped < 400
    assert f"resumed step {stopped} " in alone(text, tmp_path, cache_dir, *long)
    assert [step for step, name, _ in tiny.curve(tmp_path) if name == "train/loss"] == list(range(50, 401, 50))


LONG = ["--config.total_steps=400", "--config.log_every_steps=50", "--config.checkpoint_every_steps=0"]


@pytest.mark.parametrize(
    ("line", "data", "flags", "step"),
    [
        ("compiling the step", "", ["--config.eval_every_steps=0"], 0),
        ("step 50/400", "", ["--config.eval_every_steps=50", "--config.eval_batches=0"], 50),
        ("silent", "silent", ["--config.eval_every_steps=0"], without_data.BATCHES),
    ],
    ids=["compile", "evaluation", "data"],
)
def test_a_signal_to_process_1_stops_both_whatever_process_0_does(line, data, flags, step, text, tmp_path, cache_dir):
    processes = start(text, tmp_path, cache_dir, *LONG, *flags, data=data)
    read_to(processes[0], line)
    time.sleep(1 if data else 0)  # until process 1 waits for process 0, which waits for its disk
    processes[1].send_signal(signal.SIGTERM)
    for who, of in zip(("a signal to another process", "SIGTERM"), finish(processes)):
        assert f"{who}: stopped at step {step} of 400" in of
    assert tiny.steps_in(tmp_path) == ([step] if step else [])


def test_a_disk_that_fails_process_0_ends_process_1_which_says_why(text, tmp_path, cache_dir):
    said = finish(start(text, tmp_path, cache_dir, *LONG, "--config.eval_every_steps=0", data="broken"), status=2)
    assert "error: Input/output error: 'text'" in said[0]
    assert re.search(r"^error: failed: process 0 \(.+\): OSError: Input/output error: 'text'$", said[1], re.MULTILINE)


def test_what_is_left_of_a_killed_process_s_run_goes_on_with_another_number_of_processes(text, tmp_path, cache_dir):
    """Process 2 of 4 is killed behind a checkpoint; two processes go on; the curve is that of a run left alone."""
    every = ["--config.total_steps=90", "--config.log_every_steps=1", "--config.eval_every_steps=0"]
    every += ["--config.checkpoint_every_steps=20"]
    alone(text, tmp_path / "whole", cache_dir, *every)
    run = tmp_path / "run"
    processes = start(text, run, cache_dir, *every, count=4)
    try:
        read_to(processes[0], "step 50/90")
        processes[2].kill()
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode for process in processes)
    assert any("heartbeat" in of for of in said)  # JAX names the process; the others' errors are of its connection
    steps = tiny.steps_in(run)
    assert steps and set(steps) <= {20, 40, 60, 80} and not list((run / "checkpoints").glob("*tmp*"))
    told = {path.name for path in (run / "processes").glob("*.json")}
    assert told == {f"{index}.json" for index in range(4)}
    said = finish(start(text, run, cache_dir, *every))
    assert f"resumed step {steps[-1]} " in said[0]
    assert [step for step, name, _ in tiny.curve(run) if name == "train/loss"] == list(range(1, 91))
    np.testing.assert_allclose(tiny.losses(run), tiny.losses(tmp_path / "whole"), rtol=2e-5)


def test_the_log_names_a_process_that_is_stopped(text, tmp_path, cache_dir):
    long = ["--config.total_steps=200", "--config.log_every_steps=50", "--config.eval_every_steps=0"]
    processes = start(text, tmp_path, cache_dir, *long, "--config.checkpoint_every_steps=0", "--config.watch_seconds=4")
    try:
        named = stopped = False
        for line in processes[0].stderr:
            if "step 50/200" in line:
                processes[1].send_signal(signal.SIGSTOP)
                stopped = True
            if stopped and "no progress for" in line:
                named = re.search(r": process 1 \(\S+, pid (\d+)\) has told nothing for \d+ s, in step at step", line)
                break
    finally:
        processes[1].send_signal(signal.SIGCONT)
    finish(processes)
    assert named and int(named[1]) == processes[1].pid
    assert "in advance" in (tmp_path / "processes" / "0.stacks.txt").read_text()
