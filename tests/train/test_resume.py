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
    assert train_until("step 6/10", cfg, workdir) == {}
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


def test_on_another_mesh_the_resumed_losses_agree(quick, copy, cfg, whole):
    other = cfg.replace(mesh=cfg.mesh.replace(data=2, fsdp=2, tensor=2))
    tiny.train(other, copy, jax.devices())
    expected = [value for _, name, value in whole if name == "train/loss"]
    np.testing.assert_allclose(tiny.losses(copy), expected, rtol=2e-5)


def test_an_evaluation_that_a_signal_cut_short_is_made_at_the_resume(quick, cfg, whole, tmp_path):
    train_until("step 8/10", cfg, tmp_path)
    assert tiny.steps_in(tmp_path)[-1] == 8 and (8, "eval/loss") not in {point[:2] for point in tiny.curve(tmp_path)}
    tiny.train(cfg, tmp_path)
    assert tiny.curve(tmp_path) == whole


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_curve_as_it_is(text, tmp_path):
    rng, env = random.Random(2), tiny.environment(tmp_path / "cache")
    start = lambda name: subprocess.Popen(
        tiny.command(text, tmp_path / name, "hybrid", "--config.total_steps=60"), env=env, stderr=subprocess.PIPE
    )

    def finish(name):
        with start(name) as process:
            assert process.wait() == 0, process.stderr.read()

    finish("whole")
    begin = time.monotonic()
    finish("timed")
    seconds = time.monotonic() - begin  # of a run whose programs are compiled already
    kills, runs = 0, 1
    while kills < 20:
        with start(f"killed_{runs}") as process:
            try:
                process.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
                assert process.returncode == 0, process.stderr.read()
                runs += 1  # it came to its end before its kill: the next one begins anew
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    finish(f"killed_{runs}")
    whole = tiny.curve(tmp_path / "whole")
    for folder in tmp_path.glob("killed_*"):
        assert tiny.curve(folder) == whole, folder
