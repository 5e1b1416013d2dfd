"""Goodput is the time of kept steps by all time since the first process began; what is lost has one cause."""

import contextlib
import json
import signal
import threading
import time
from unittest import mock

import pytest

from arch.data.reader import Reader
from arch.train import clock, ledger, loop
from tests.train import tiny


class Time:
    """A clock for tests, in place of `time.perf_counter`, and of `time.time` 1000 s later."""

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
    monkeypatch.setattr(time, "time", lambda: now.now + 1000)
    return now


def lost(found):
    """{cause: seconds} of what a lap or `so_far` says."""
    return {name[5:-8]: value for name, value in found.items() if name.startswith("lost_")}


def test_a_lap_holds_neither_losses_nor_the_time_before_it(now):
    watch = clock.Clock(began=90.0)
    now.passes(50)
    watch.start(10)
    now.passes(6)
    with watch.lost("eval"):
        now.passes(100)
    assert watch.lap(13, 0)["seconds_per_step"] == 2


def test_waits_for_data_are_a_share_of_the_lap_and_are_not_kept(now):
    watch = clock.Clock(began=100.0)
    watch.start(0)
    with watch.waiting():
        now.passes(3)
    now.passes(9)
    assert watch.lap(4, 0) == dict(
        seconds_per_step=3, data_wait_share=0.25, wall_seconds=12, kept_seconds=9, goodput=0.75, lost_data_seconds=3
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
    lap = watch.lap(8, 1)
    assert (lap["kept_seconds"], lost(lap)) == (14, {"skipped": 2})


def test_a_checkpoint_in_the_middle_of_a_lap_counts_its_steps(now):
    watch = clock.Clock(began=100.0)
    watch.start(0)
    now.passes(5)
    assert watch.so_far()["kept_seconds"] == 5
    now.passes(1)
    assert watch.lap(2, 0)["kept_seconds"] == 6


def test_each_moment_has_one_cause_and_what_has_none_before_the_first_step_is_the_start(now):
    watch = clock.Clock(began=97.0)
    with watch.lost("restore"):
        now.passes(5)
    now.passes(1)
    with watch.lost("compile"):
        now.passes(7)
    watch.start(0)
    now.passes(20)
    with watch.lost("checkpoint"):
        now.passes(2)
        with watch.lost("other"):
            now.passes(11)
        found = watch.so_far()
    assert lost(found) == dict(startup=4, restore=5, compile=7, checkpoint=2, other=11)
    assert (found["wall_seconds"], found["kept_seconds"]) == (49, 20)
    assert watch.line() == (
        "goodput 40.8% of 0:00:49; lost: other 11.0 s, compile 7.0 s, restore 5.0 s, startup 4.0 s, checkpoint 2.0 s"
    )


def test_a_step_or_a_wait_for_a_batch_beyond_patience_is_a_stall_but_no_compilation_is(now):
    watch = clock.Clock(began=100.0, patience=10.0)
    with watch.lost("compile"):
        now.passes(30)
    watch.start(0)
    for seconds in (9, 12, 9):
        now.passes(seconds)
        watch.step()
    with watch.waiting():
        now.passes(11)
    lap = watch.lap(3, 0)
    assert (lap["kept_seconds"], lap["seconds_per_step"], lost(lap)) == (18, 6, dict(compile=30, stall=23))


def write_metrics(folder, kept_at_2=8.0):
    lines = [
        {"step": 2, "perf/kept_seconds": kept_at_2, "train/skipped_steps": 1},
        {"step": 2, "eval/valid/loss": 1.0},
        {"step": 5, "perf/kept_seconds": 17.0, "train/skipped_steps": 2},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 6, "perf/wall')


def process(folder, now, *, down, step):
    """The clock and the ledger of one that begins so much later and goes on from a step."""
    now.passes(down)
    began = now.now
    watch = clock.Clock(began, ledger.before(folder, began))
    watch.goes_on(*ledger.kept(folder, step))
    book = ledger.Ledger(folder, watch)
    book.begin()
    return watch, book


def test_a_run_that_has_not_begun_leaves_no_file(tmp_path):
    ledger.Ledger(tmp_path, clock.Clock(0.0)).write()
    assert not list(tmp_path.iterdir())


def test_steps_behind_the_checkpoint_are_redone_and_the_time_until_the_restart_is_lost(now, tmp_path):
    watch, book = process(tmp_path, now, down=0, step=0)
    watch.start(0)
    now.passes(17)
    book.write()
    now.passes(3)  # of which nothing is known
    write_metrics(tmp_path)
    watch, book = process(tmp_path, now, down=60, step=2)
    now.passes(10)
    watch.start(2)
    now.passes(12)
    lap = watch.lap(5, 1)
    assert lost(lap) == dict(redone=9, down=63, startup=10)
    assert (lap["kept_seconds"], lap["wall_seconds"]) == (20, 102)  # 8 up to step 2, and 12


def test_a_process_that_is_killed_before_it_writes_metrics_is_not_forgotten(now, tmp_path):
    watch, book = process(tmp_path, now, down=0, step=0)
    with watch.lost("compile"):
        now.passes(40)
        book.write()
    for down in (1, 2):
        watch, book = process(tmp_path, now, down=down, step=0)
        now.passes(5)
        book.write()
    assert lost(watch.so_far()) == dict(compile=40, startup=10, down=3)


def test_a_process_that_is_killed_while_it_restores_leaves_what_is_redone_to_the_next(now, tmp_path):
    write_metrics(tmp_path)
    watch, book = process(tmp_path, now, down=0, step=0)
    watch.start(0)
    now.passes(17)
    book.write()
    watch = clock.Clock(now.now, ledger.before(tmp_path, now.now))
    ledger.Ledger(tmp_path, watch).write()
    watch, _ = process(tmp_path, now, down=0, step=2)
    assert lost(watch.so_far()) == dict(redone=9)


def test_nothing_is_lost_between_the_end_of_a_run_and_its_being_made_longer(now, tmp_path):
    watch, book = process(tmp_path, now, down=0, step=0)
    watch.start(0)
    now.passes(10)
    book.write(done=True)
    watch, _ = process(tmp_path, now, down=1e6, step=0)
    assert "down" not in lost(watch.so_far())


def test_a_run_that_begins_has_no_past(now, tmp_path):
    assert (ledger.before(tmp_path, 0.0), ledger.kept(tmp_path, 0)) == ({}, (0.0, 0))


def test_a_file_that_is_no_ledger_is_reported_and_counted_anew(tmp_path, caplog):
    (tmp_path / ledger.FILE).write_text("{")
    assert ledger.before(tmp_path, 0.0) == {} and "goodput is counted anew" in caplog.text


def test_what_earlier_processes_lost_by_cause_is_part_of_the_whole_run(quick, text, tmp_path, caplog):
    """A run that is stopped after 6 of 10 steps and goes on, told that more steps had been behind its checkpoint."""
    cfg, began = tiny.config(text), time.time()
    with tiny.at_line("step 5/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path)
    book = json.loads((tmp_path / ledger.FILE).read_text())
    assert not book["done"] and began < book["alive"] < time.time()
    book["seconds"]["step"] += 1000.0  # as of steps behind the checkpoint
    (tmp_path / ledger.FILE).write_text(json.dumps(book | {"alive": book["alive"] - 50}))
    caplog.clear()
    with caplog.at_level("INFO"):
        tiny.train(cfg, tmp_path)
    elapsed = time.time() - began
    last = [line for line in tiny.metrics(tmp_path) if "perf/goodput" in line][-1]
    causes = {name for name in last if name.startswith("perf/lost_")}
    expected = ("startup", "restore", "compile", "data", "eval", "checkpoint", "redone", "down")
    assert causes == {f"perf/lost_{cause}_seconds" for cause in expected}
    assert 1000 <= last["perf/lost_redone_seconds"] < 1000 + elapsed
    assert 50 < last["perf/lost_down_seconds"] < 50 + elapsed
    assert sum(last[name] for name in causes) + last["perf/kept_seconds"] == pytest.approx(last["perf/wall_seconds"])
    assert last["perf/wall_seconds"] < 1050 + elapsed
    assert last["perf/goodput"] == last["perf/kept_seconds"] / last["perf/wall_seconds"]
    (said,) = (line for line in caplog.messages if line.startswith("goodput"))
    assert "; lost: redone 1" in said
    assert json.loads((tmp_path / ledger.FILE).read_text())["done"]
