"""Processes agree on where they stop, through a real coordination service; here each is a thread with a client."""

import concurrent.futures
import itertools
import random
import re
import socket
import threading
import time

import pytest

from arch.train.consent import Consent, FailedError, Place
from arch.train.interrupt import Interrupt

COUNT = 3
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def stores():
    """A client for each process."""
    from jax._src.lib import _jax

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    service = _jax.get_distributed_runtime_service(address, COUNT)
    clients = [_jax.get_distributed_runtime_client(address, index) for index in range(COUNT)]
    at_once("connect", clients)
    yield clients
    at_once("shutdown", clients)
    service.shutdown()


def at_once(what, clients):
    """Calls the method of each, which waits for the others."""
    with concurrent.futures.ThreadPoolExecutor(COUNT) as threads:
        list(threads.map(lambda client: getattr(client, what)(), clients))


@pytest.fixture
def run(stores):
    """run(function) -> what function(index, consent, interrupt) gives in each process, or the error that it raised."""
    keys = f"test/{next(NUMBERS)}"

    def process(function, index):
        interrupt = Interrupt()
        try:
            with Consent(interrupt, Place(index, COUNT, stores[index], keys)) as agreed:
                return function(index, agreed, interrupt)
        except Exception as error:
            return error

    def all_of(function):
        with concurrent.futures.ThreadPoolExecutor(COUNT) as threads:
            every = [threads.submit(process, function, index) for index in range(COUNT)]
            return [each.result(timeout=20) for each in every]

    return all_of


@pytest.mark.parametrize("seed", range(3))
def test_all_stop_at_the_same_turn_whenever_a_signal_comes(seed, run):
    rng = random.Random(seed)
    delays, signals = [rng.choice((0, 1e-3, 4e-3)) for _ in range(COUNT)], rng.sample(range(2, 9), COUNT)

    def until_stopped(index, agreed, interrupt):
        for turn in range(1, 20):
            if turn == signals[index]:
                interrupt.requested = "SIGTERM"
            if reason := agreed.stop():
                return turn, reason
            time.sleep(delays[index])

    found = run(until_stopped)
    other = "a signal to another process"
    assert found == [(min(signals), "SIGTERM" if turn == min(signals) else other) for turn in signals]


def test_one_that_waits_for_data_stops_where_another_has_a_signal_while_it_waits_for_it(run):
    def wait(index, agreed, interrupt):
        assert not agreed.stop() and not agreed.wanted()
        if index == 1:
            threading.Timer(0.1, setattr, (interrupt, "requested", "SIGINT")).start()
        while index == 0 and not agreed.wanted():
            time.sleep(0.01)
        return agreed.stop()

    assert all(run(wait))


def test_an_error_of_one_ends_the_others_at_their_next_turn_and_names_it(run):
    def fail(index, agreed, interrupt):
        assert not agreed.stop()
        if index == 2:
            raise OSError("the disk is full")
        agreed.stop()

    *others, error = run(fail)
    assert isinstance(error, OSError)
    for other in others:
        assert isinstance(other, FailedError)
        assert re.fullmatch(r"failed: process 2 \(.+\): OSError: the disk is full", str(other))


def test_what_was_agreed_is_forgotten(run, stores):
    run(lambda index, agreed, interrupt: [agreed.stop() for _ in range(5)])
    kept = [key for key, _ in stores[0].key_value_dir_get(f"test/{next(NUMBERS) - 1}/")]
    assert len(kept) == 2


def test_alone_a_process_asks_nobody():
    interrupt = Interrupt()
    alone = Consent(interrupt, Place(0, 1, None, ""))
    assert alone.stop() == alone.wanted() == ""
    interrupt.requested = "SIGTERM"
    assert alone.stop() == alone.wanted() == "SIGTERM"
