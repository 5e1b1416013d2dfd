"""A folder that a run trains in is locked, as long as the run's process lives."""

import errno
import os
import subprocess
import sys

import pytest

from arch.train import lock, loop, modes
from arch.train.startup import Startup
from tests.commands import ROOT
from tests.train import tiny

HOLDER = """
import sys, time
from arch.train import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_is_locked_is_refused_with_the_name_of_the_holder(tmp_path):
    with lock.held(tmp_path):
        with pytest.raises(ValueError, match=f"{tmp_path} is in use: process {os.getpid()} on .+ trains in it"):
            lock.held(tmp_path).__enter__()


def test_a_folder_is_free_again_behind_a_run(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path):
            pass


def test_a_folder_is_free_again_when_its_process_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"is in use: process {process.pid} on"):
            lock.held(tmp_path).__enter__()
        process.kill()
    with lock.held(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.held(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in caplog.text


def test_a_second_run_in_the_same_folder_is_refused_before_it_touches_anything(text, tmp_path, capsys):
    with lock.held(tmp_path), pytest.raises(SystemExit) as end:
        modes.train(tiny.config(text), str(tmp_path), {}, Startup())
    assert end.value.code == 2 and f"error: {tmp_path} is in use" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [lock.NAME]


def test_a_run_holds_the_lock_while_it_trains(text, tmp_path, monkeypatch):
    seen = []

    def train(ready, *_):
        with pytest.raises(ValueError, match="is in use"):
            lock.held(ready.workdir).__enter__()
        seen.append(ready.workdir)
        return {}

    monkeypatch.setattr(loop, "train", train)
    modes.train(tiny.config(text), str(tmp_path), {}, Startup())
    assert seen == [tmp_path]
