"""The progress line is rewritten on a terminal and absent elsewhere."""

import io

import pytest

from arch.train import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock.now += 1`."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def shown(terminal):
    """What a terminal shows: each carriage return starts the line anew, over what stands there."""
    screen = ""
    for part in terminal.getvalue().split("\r"):
        screen = part + screen[len(part) :]
    return screen.rstrip(" ")


def test_the_line_says_how_far_how_good_how_fast_and_how_long(clock):
    terminal = Terminal()
    line = progress.Progress(2000, 1030, label="demo", stream=terminal)
    for step in range(1, 751):
        clock.now += 0.025
        line.update(step, 2.3141)
    assert line.line() == "demo   37.5%  750/2000  loss 2.314  41.2k tokens/s  0:00:31 left"


def test_only_one_line_is_ever_used_until_it_is_closed(clock):
    terminal = Terminal()
    with progress.Progress(10, 7, stream=terminal) as line:
        for step in range(1, 11):
            clock.now += 1
            line.update(step, 1.0)
        assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().endswith("\n")


def test_what_is_no_terminal_stays_quiet(clock):
    stream = io.StringIO()
    with progress.Progress(10, 7, stream=stream) as line:
        clock.now += 1
        line.update(1, 1.0)
        line.clear()
    assert stream.getvalue() == ""


def test_the_rate_counts_from_where_the_run_was_resumed(clock):
    terminal = Terminal()
    line = progress.Progress(100, 10, start_step=90, stream=terminal)
    clock.now += 1
    line.update(91, 1.0)
    assert "10 tokens/s  0:00:09 left" in shown(terminal)


def test_time_in_a_pause_is_not_time_of_a_step(clock):
    terminal = Terminal()
    line = progress.Progress(100, 10, stream=terminal)
    clock.now += 1
    line.update(1, 1.0)
    with line.paused():
        assert shown(terminal) == ""
        clock.now += 50
    clock.now += 1
    line.update(2, 1.0)
    assert "10 tokens/s" in shown(terminal)


def test_the_line_is_redrawn_at_most_ten_times_a_second(clock):
    terminal = Terminal()
    line = progress.Progress(10**6, 10, stream=terminal)
    for step in range(1, 1001):
        clock.now += 0.001
        line.update(step, 1.0)
    assert 9 <= terminal.getvalue().count("\r") <= 11


def test_the_last_step_is_always_drawn(clock):
    terminal = Terminal()
    line = progress.Progress(3, 10, stream=terminal)
    for step in (1, 2, 3):
        line.update(step, 1.0)
    assert shown(terminal) == "100.0%  3/3  loss 1.000"


def test_a_shorter_line_leaves_nothing_of_a_longer_one(clock):
    terminal = Terminal()
    line = progress.Progress(100, 1, stream=terminal)
    for step, loss in ((1, 12345.678), (2, 1.0)):
        clock.now += 1
        line.update(step, loss)
    assert shown(terminal) == line.line()


def test_a_line_wider_than_the_terminal_is_cut(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "23")
    terminal = Terminal()
    line = progress.Progress(100, 1, stream=terminal)
    clock.now += 1
    line.update(1, 1.0)
    assert shown(terminal) == line.line()[:22].rstrip()
