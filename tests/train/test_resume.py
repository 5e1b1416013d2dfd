"""A run that was interrupted and resumed is the run that was not."""

import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.train import tiny

ROOT = pathlib.Path(__file__).parents[2]


def train_until(line: str, cfg, workdir, devices=None):
    """Trains in this process, with a SIGTERM at the log line that holds `line`."""

    class Stop(logging.Handler):
        def emit(self, record):
            if line in record.getMessage():
                signal.raise_signal(signal.SIGTERM)

    log, handler = logging.getLogger("arch"), Stop()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        return tiny.train(cfg, workdir, devices)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


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


def steps_in(workdir):
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdecimal())


def test_a_stopped_run_has_a_checkpoint_of_its_last_step(stopped):
    assert steps_in(stopped)[-1] == 6


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
    assert steps_in(tmp_path)[-1] == 8 and (8, "eval/loss") not in {point[:2] for point in tiny.curve(tmp_path)}
    tiny.train(cfg, tmp_path)
    assert tiny.curve(tmp_path) == whole


def command(text, workdir, *more):
    """The run as a program."""
    return [sys.executable, str(ROOT / "run.py"), f"--config={ROOT / 'tests/train/tiny.py'}:hybrid",
            f"--config.data.path={text}", f"--workdir={workdir}", "--config.total_steps=60", *more]  # fmt: skip


def environment(cache):
    """One device, and no program compiled twice."""
    return os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_curve_as_it_is(text, tmp_path, cache_dir):
    rng = random.Random(2)
    env = environment(tmp_path / "cache")
    subprocess.run(command(text, tmp_path / "whole"), env=env, check=True, capture_output=True)
    begin = time.monotonic()
    subprocess.run(command(text, tmp_path / "timed"), env=env, check=True, capture_output=True)
    seconds = time.monotonic() - begin  # of a run with all programs compiled already

    kills, log = 0, b""
    while kills < 20:
        # A run that comes to its end before its kill begins anew, in the folder of the next curve.
        workdir = tmp_path / f"killed_{log.count(b'<end>')}"
        with subprocess.Popen(command(text, workdir), env=env, stderr=subprocess.PIPE) as process:
            try:
                process.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
                log += b"<end>"
                assert process.returncode == 0, process.stderr.read()
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
    subprocess.run(command(text, workdir), env=env, check=True, capture_output=True)
    whole = tiny.curve(tmp_path / "whole")
    for folder in sorted(tmp_path.glob("killed_*")):
        assert tiny.curve(folder) == whole, folder
