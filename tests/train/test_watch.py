"""The watch names the process that is stuck, and in what; one that makes progress is left in peace."""

import json
import os
import threading

import pytest

from arch.train import watch
from arch.train.watch import Line, Watch


def line(index, phase, step=41, for_seconds=600.0, age=0.0):
    return Line(index, f"host-{index}", 70 + index, step, phase, for_seconds, {}, age)


def test_those_who_wait_in_a_step_wait_for_the_others():
    lines = [line(0, "step", 42), line(1, "data"), line(2, "step", 42)]
    said = watch.describe(lines, 3, old=30)
    assert said == "process 1 (host-1, pid 71) in data at step 41 for 600 s; process 0, 2 in step at step 42"


def test_one_that_tells_nothing_more_is_named_first():
    said = watch.describe([line(0, "step"), line(1, "step", age=90.0)], 3, old=30)
    assert said == (
        "process 1 (host-1, pid 71) has told nothing for 90 s, in step at step 41; process 2 has told nothing; "
        "process 0 in step at step 41"
    )


class Said:
    """A handler that waits for lines of the log."""

    def __init__(self, monkeypatch):
        self.lines, self._spoken = [], threading.Semaphore(0)
        monkeypatch.setattr(watch.log, "warning", self._warning)

    def _warning(self, text, *values):
        self.lines.append(text % values)
        self._spoken.release()

    def wait(self):
        assert self._spoken.acquire(timeout=60)
        return self.lines[-1]


@pytest.fixture
def said(monkeypatch):
    return Said(monkeypatch)


def test_a_process_that_is_stuck_is_named_with_its_phase_and_where_its_threads_are(tmp_path, said):
    found = Watch(tmp_path, index=0, count=1, patience=0.2)
    found.step(5)
    with found.phase("data"):
        text = said.wait()
    found.close()
    assert text.startswith("no progress for 0 s: process 0 (") and "in data at step 5 for 0 s" in text
    stacks = (tmp_path / "processes" / "0.stacks.txt").read_text()
    assert "test_a_process_that_is_stuck" in stacks


def test_it_speaks_again_only_when_the_wait_has_doubled(tmp_path, said):
    found = Watch(tmp_path, index=0, count=1, patience=0.05)
    stuck = lambda: float(said.wait().split()[3])
    stuck(), stuck(), stuck()
    assert len(said.lines) >= 3
    found.close()


def test_progress_keeps_it_silent(tmp_path, said):
    found = Watch(tmp_path, index=0, count=1, patience=30.0, interval=0.01)
    for step in range(20):
        found.step(step)
    found.close()
    assert said.lines == []


def test_each_process_tells_of_its_phases(tmp_path):
    watches = [Watch(tmp_path, index=index, count=2, patience=30.0) for index in range(2)]
    with watches[1].phase("data"):
        watches[1].step(3)
    for found in watches:
        found.close()
        found._write()
    first, second = watches[0].lines()
    assert (first.index, first.pid, first.phase) == (0, os.getpid(), "step")
    assert (second.step, second.phase, set(second.seconds)) == (3, "step", {"step", "data"})
    assert min(second.seconds.values()) >= 0 and second.age < 30


def test_an_old_line_has_its_age(tmp_path):
    watches = [Watch(tmp_path, index=index, count=2, patience=30.0) for index in range(2)]
    for found in watches:
        found.close()
        found._write()
    path = tmp_path / "processes" / "1.json"
    written = path.stat().st_mtime
    os.utime(path, (written - 500, written - 500))
    assert [round(found.age, -2) for found in watches[0].lines()] == [0, 500]


def test_a_file_cut_short_is_one_that_is_not_there(tmp_path):
    found = Watch(tmp_path, index=0, count=2, patience=30.0)
    found.close()
    found._write()
    text = (tmp_path / "processes" / "0.json").read_text()
    (tmp_path / "processes" / "1.json").write_text(text[:20])
    assert [line.index for line in found.lines()] == [0]
    assert json.loads(text)["phase"] == "step"


def test_without_patience_nothing_is_written(tmp_path):
    found = Watch(tmp_path, index=0, count=1, patience=0)
    with found.phase("data"):
        assert found.lines() == []
    found.close()
    assert not list(tmp_path.iterdir())
