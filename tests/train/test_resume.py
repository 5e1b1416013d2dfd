"""A run that was interrupted and resumed is the run that was not."""

import logging
import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from tests.train import tiny


def train_until(line, cfg, workdir):
    """Trains in this process, with a SIGTERM at the log line that holds `line`."""
    with tiny.at_line(line, lambda: signal.raise_signal(signal.SIGTERM)):
        return tiny.train(cfg, workdir)


@pytest.fixture(scope="module")
def cfg(text):
    return tiny.config(text, "hybrid")


@pytest.fixture(scope="module")
def whole(quick, cfg, tmp_path_factory):
    """The curve of a run that nobody interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    tiny.train(cfg, workdir)
    return tiny.curve(workdir)


@pytest.fixture(scope="module")
def stopped(quick, cfg, tmp_path_factory):
    """A run that was stopped after 6 of 10 steps."""
    workdir = tmp_path_factory.mktemp("stopped")
    assert train_until("step 5/10", cfg, workdir) == {}  # it is read while step 6 runs
    return workdir


@pytest.fixture
def copy(stopped, tmp_path):
    """A copy of the stopped run, to go on with."""
    subprocess.run(["cp", "-r", str(stopped), str(tmp_path / "copy")], check=True)
    return tmp_path / "copy"


def test_a_stopped_run_has_a_checkpoint_of_its_last_step(stopped):
    assert tiny.steps_in(stopped)[-1] == 6


def test_the_resumed_curve_is_the_whole_one_bit_for_bit(quick, copy, cfg, whole):
    tiny.train(cfg, copy)
    assert tiny.curve(copy) == whole


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(quick, copy, cfg, whole, caplog):
    files = [file for file in (copy / "checkpoints" / "6" / "state").rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with caplog.at_level(logging.INFO):
        tiny.train(cfg, copy)
    assert any("is damaged" in line and "using step 4" in line for line in caplog.messages)
    assert any("resumed step 4" in line for line in caplog.messages)
    assert tiny.curve(copy) == whole


@pytest.mark.slow
def test_on_another_mesh_the_resumed_losses_agree(quick, copy, cfg, whole):
    other = cfg.replace(mesh=cfg.mesh.replace(data=2, fsdp=2, tensor=2))
    tiny.train(other, copy, jax.devices())
    expected = [value for _, name, value in whole if name == "train/loss"]
    np.testing.assert_allclose(tiny.losses(copy), expected, rtol=2e-5)


@pytest.mark.slow
def test_on_fewer_devices_the_error_names_the_override_and_with_it_the_losses_agree(quick, text, tmp_path):
    """From 8 devices to 4, which mesh.data=-1 takes as they are, and to 2, on which an axis of 4 is refused."""
    cfg = tiny.config(text, **{"mesh.fsdp": 4, "batch_size": 8})
    with tiny.at_line("step 5/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path / "fewer", jax.devices())
    with pytest.raises(ValueError, match="to the number of devices, 2: --config.mesh.fsdp=2 would"):
        tiny.train(cfg, tmp_path / "fewer", jax.devices()[:2])
    with tiny.at_line("step 7/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path / "fewer", jax.devices()[:4])
    tiny.train(cfg.replace(mesh=cfg.mesh.replace(fsdp=2)), tmp_path / "fewer", jax.devices()[:2])
    tiny.train(cfg, tmp_path / "all", jax.devices())
    np.testing.assert_allclose(tiny.losses(tmp_path / "fewer"), tiny.losses(tmp_path / "all"), rtol=2e-5)


@pytest.mark.slow
def test_an_evaluation_that_a_signal_cut_short_is_made_at_the_resume(quick, cfg, whole, tmp_path):
    train_until("step 8/10", cfg, tmp_path)
    seen = {point[:2] for point in tiny.curve(tmp_path)}
    assert tiny.steps_in(tmp_path)[-1] == 8 and (8, "eval/valid/loss") not in seen
    tiny.train(cfg, tmp_path)
    assert tiny.curve(tmp_path) == whole


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_curve_as_it_is(text, tmp_path):
    """Kills come some lines of the log and some time after a start; one start in four has to compile meanwhile."""
    rng = random.Random(2)
    every = [f"--config.{what}_every_steps=8" for what in ("eval", "checkpoint")]

    def start(name, cache="cache"):
        command = tiny.command(text, tmp_path / name, "hybrid", "--config.total_steps=600", *every)
        env = tiny.environment(tmp_path / cache)
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    def finish(name):
        with start(name) as process:
            said = process.communicate()[1]
        assert process.returncode == 0, said

    finish("whole")
    for kill in range(20):
        cold = kill % 4 == 0
        lines, delay = (2, rng.uniform(0, 8)) if cold else (rng.randrange(25), rng.uniform(0, 0.3))
        with start("killed", f"cold_{kill}" if cold else "cache") as process:
            for _ in range(lines):
                process.stderr.readline()
            time.sleep(delay)
            assert process.poll() is None, "the run ended before its kill"
            process.kill()
    finish("killed")
    assert tiny.curve(tmp_path / "killed") == tiny.curve(tmp_path / "whole")
