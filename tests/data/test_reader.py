"""A reader yields what its iterator does; a wait in it can be given up, a read that failed is the caller's to see."""

import threading

import pytest

from arch.data.reader import Reader


def never():
    return False


class Stalled:
    """Yields one batch; the read behind it does not return until the test says so."""

    def __init__(self):
        self.go, self.closed, self._reads = threading.Event(), threading.Event(), 0

    def __iter__(self):
        return self

    def __next__(self):
        self._reads += 1
        if self._reads > 1:
            self.go.wait()
        return self._reads

    def close(self):
        self.closed.set()


def numbers(count):
    yield from range(count)


def test_it_yields_what_the_iterator_does():
    reader = Reader(numbers(5))
    assert [reader.next(never) for _ in range(5)] == list(range(5))
    with pytest.raises(StopIteration):
        reader.next(never)
    reader.close()


def test_an_error_of_a_read_is_raised_where_the_batch_is_taken():
    def broken():
        yield 1
        raise OSError("no such disk")

    reader = Reader(broken())
    assert reader.next(never) == 1
    with pytest.raises(OSError, match="no such disk"):
        reader.next(never)
    reader.close()


def test_a_wait_is_given_up_and_what_comes_later_is_dropped():
    stalled = Stalled()
    reader = Reader(stalled)
    assert reader.next(never) == 1
    assert reader.next(lambda: True) is None
    reader.close()
    assert not stalled.closed.is_set()
    stalled.go.set()
    assert stalled.closed.wait(timeout=60)


def test_closing_ends_a_thread_that_has_a_batch_in_hand():
    reader = Reader(numbers(10**9))
    assert reader.next(never) == 0
    reader.close()
    reader._thread.join(60)
    assert not reader._thread.is_alive()
