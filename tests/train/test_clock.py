"""Goodput is the time of kept steps by the lifetimes of all processes; resumes, skips and waits cost it."""

import contextlib
import json
import signal
import threading
import time
from unittest import mock

import pytest

from arch.data.reader import Reader
from arch.train import clock, loop
from tests.train import tiny


class Time:
    """A clock for tests, in place of `time.perf_counter`."""

    now = 100.0

    def __init__(self):
        self.read_by_another = threading.Event()

    def __call__(self):
        now = self.now
        if threading.current_thread() is not threading.main_thread():
            self.read_by_another.set()
        return now

    def passes(self, seconds):
        self.now += seconds


class Work:
    """What a device is busy with until it is told to be done."""

    def __init__(self):
        self.done = threading.Event()

    def is_ready(self):
        return self.done.is_set()

    def block_until_ready(self):
        assert self.done.wait(60)
        raise RuntimeError("a computation that failed")  # does not end the run here


@pytest.fixture
def now(monkeypatch):
    now = Time()
    monkeypatch.setattr(time, "perf_counter", now)
    return now


def test_a_lap_holds_neither_pauses_nor_the_time_before_it(now):
    watch = clock.Clock(began=90.0)
    now.passes(50)
    watch.start(10)
    now.passes(6)
    with watch.paused():
        now.passes(100)
    assert watch.lap(13, 0)["seconds_per_step"] == 2


def test_waits_for_data_are_a_share_of_the_lap_and_are_not_kept(now):
    watch = clock.Clock(began=100.0)
    watch.start(0)
    with watch.waiting():
        now.passes(3)
    now.passes(9)
    assert watch.lap(4, 0) == dict(
        seconds_per_step=3, data_wait_share=0.25, wall_seconds=12, kept_seconds=9, goodput=0.75
    )


def test_a_wait_while_the_device_is_busy_is_no_wait(now):
    """The loader takes as long as the step: the device is never idle."""
    watch, work = clock.Clock(began=100.0), [Work() for _ in range(4)]
    watch.start(0)
    for one in work:
        with watch.waiting(one):
            now.passes(3)
        one.done.set()
    lap = watch.lap(4, 0)
    assert (lap["data_wait_share"], lap["kept_seconds"], lap["goodput"]) == (0, 12, 1)
    watch.close()


def test_a_wait_counts_from_when_the_device_is_done(now):
    watch, work = clock.Clock(began=100.0), Work()
    watch.start(0)
    with watch.waiting(work):
        now.passes(3)
        work.done.set()
        assert now.read_by_another.wait(60)
        now.passes(2)
    now.passes(5)
    assert watch.lap(2, 0)["data_wait_share"] == 0.2
    watch.close()


def test_a_wait_of_a_device_that_was_done_before_counts_whole(now):
    watch, work = clock.Clock(began=100.0), Work()
    work.done.set()
    watch.start(0)
    with watch.waiting(work):
        now.passes(3)
    now.passes(9)
    assert watch.lap(4, 0)["data_wait_share"] == 0.25


def test_the_loop_waits_for_a_batch_beside_the_step_before():
    run = mock.MagicMock(under_way=None)
    run._due.return_value = False
    run._take.side_effect = lambda rows: {"loss": f"loss of {rows}"}
    with contextlib.closing(Reader(batch for batch in ["one", "two"])) as batches:
        for _ in range(2):
            loop.Run.advance(run, batches)
    assert [call.args for call in run.logger.waiting.call_args_list] == [(None,), ("loss of one",)]


def test_skipped_steps_are_not_kept(now):
    watch = clock.Clock(began=100.0)
    watch.start(0)
    now.passes(8)
    assert watch.lap(4, 1)["kept_seconds"] == 6
    now.passes(8)
    assert watch.lap(8, 1)["kept_seconds"] == 14


def test_a_checkpoint_in_the_middle_of_a_lap_counts_its_steps(now):
    watch = clock.Clock(began=100.0)
    watch.start(0)
    now.passes(5)
    assert watch.so_far()["kept_seconds"] == 5
    now.passes(1)
    assert watch.lap(2, 0)["kept_seconds"] == 6


def test_a_resumed_process_counts_what_was_lost(now, tmp_path):
    lines = [
        {"step": 2, "perf/wall_seconds": 20.0, "perf/kept_seconds": 8.0, "train/skipped_steps": 1},
        {"step": 2, "eval/valid/loss": 1.0},
        {"step": 5, "perf/wall_seconds": 30.0, "perf/kept_seconds": 17.0, "train/skipped_steps": 2},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 6, "perf/wall')
    assert clock.past(tmp_path, 2) == clock.Past(wall_seconds=30, kept_seconds=8, skipped_steps=1)
    watch = clock.Clock(began=100.0, before=clock.past(tmp_path, 2))
    now.passes(10)
    watch.start(2)
    now.passes(12)
    assert watch.lap(5, 1) | {"data_wait_share": 0} == dict(
        seconds_per_step=4, data_wait_share=0, wall_seconds=52, kept_seconds=20, goodput=20 / 52
    )


def test_a_run_that_begins_has_no_past(tmp_path):
    assert clock.past(tmp_path, 0) == clock.Past()


def test_goodput_goes_on_over_a_resume(quick, text, tmp_path):
    cfg = tiny.config(text)
    with tiny.at_line("step 5/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path)
    before = clock.past(tmp_path, 6)
    assert 0 < before.kept_seconds < before.wall_seconds
    tiny.train(cfg, tmp_path)
    first, *_, last = (line for line in tiny.metrics(tmp_path) if line["step"] > 6 and "perf/goodput" in line)
    assert before.kept_seconds < first["perf/kept_seconds"] < last["perf/kept_seconds"]
    assert before.wall_seconds + last["perf/kept_seconds"] - before.kept_seconds < last["perf/wall_seconds"]
    assert last["perf/goodput"] == last["perf/kept_seconds"] / last["perf/wall_seconds"]
