"""Signals become requests, and stay commands when they are repeated."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from arch.train import interrupt


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_without_a_signal_nothing_is_requested():
    with interrupt.Interrupt() as i:
        assert i.requested == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_kept_by_its_name(name):
    with interrupt.Interrupt() as i:
        signal.raise_signal(signal.Signals[name])
        assert i.requested == name


def test_one_line_is_printed(capfd):
    with interrupt.Interrupt():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    out, err = capfd.readouterr()
    assert out == "" and err.strip().count("\n") == 0 and err.strip().startswith("SIGTERM: stopping")


def test_the_first_signal_is_the_one_that_is_kept():
    with interrupt.Interrupt() as i:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert i.requested == "SIGINT"


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_handlers_are_put_back(interrupted):
    before = handlers()
    with interrupt.Interrupt():
        assert handlers() != before
        if interrupted:
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_in_another_thread_it_catches_nothing():
    before, seen = handlers(), []

    def enter():
        with interrupt.Interrupt() as i:
            seen.extend([i.requested, handlers() == before])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == ["", True]


STUCK = """
    import time
    from arch.train import interrupt
    with interrupt.Interrupt() as i:
        print("ready", flush=True)
        while not i.requested:
            time.sleep(0.01)
        print("stuck", flush=True)
        pow(3, 10**9)  # minutes without a bytecode, as in a call into C++
"""


def test_a_second_ctrl_c_ends_a_process_that_is_stuck():
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(STUCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"stuck\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT
