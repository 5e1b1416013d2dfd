"""Two processes with two devices each train what one process with four devices trains."""

import json
import signal
import socket
import subprocess

import numpy as np
import pytest

from tests.train import tiny

pytestmark = pytest.mark.slow
MESH = ["--config.mesh.data=2", "--config.mesh.fsdp=2"]
SAMPLES = ["--config.sample_prompt=each", "--config.sample.max_new_tokens=3"]


def start(text, workdir, cache, *flags):
    """Both processes of a run; their standard error holds what they say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for index in range(2):
        where = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
        collectives = {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
        processes.append(
            subprocess.Popen(
                tiny.command(text, workdir, "mlp", "--multihost", *MESH, *SAMPLES, *flags),
                env=tiny.environment(cache / str(index), 2) | where | collectives,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes):
    """Waits for both; returns what they said."""
    said = []
    try:
        for process in processes:
            said.append(process.communicate(timeout=300)[1])
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    return said


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
    for line in processes[0].stderr:
        if "step 50/400" in line:
            break
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes)
    assert "SIGTERM: stopped at step " in said[1] and "a signal to another process: stopped at step " in said[0]
    (stopped,) = tiny.steps_in(tmp_path)
    assert 50 <= stopped < 400
    assert f"resumed step {stopped} " in alone(text, tmp_path, cache_dir, *long)
    assert [step for step, name, _ in tiny.curve(tmp_path) if name == "train/loss"] == list(range(50, 401, 50))
