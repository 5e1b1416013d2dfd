"""Waits for batches that can be given up: a signal is heeded although the disk, or the network behind it, is silent."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

POLL = 0.25
"""Seconds between two looks at whether to give up."""


class Reader:
    """Takes what an iterator with a `close()` yields in a thread of its own, one ahead.

    A read that never returns is left to its thread, which keeps no process from ending.
    """

    def __init__(self, batches: Iterator[Any]):
        self._read: queue.Queue = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches,), name="reader", daemon=True)
        self._thread.start()

    def next(self, give_up: Callable[[], Any]) -> Any:
        """The next one; None as soon as `give_up()` is true while there is none.

        Raises:
          Exception: what reading it raised, StopIteration behind the last one among them.
        """
        while True:
            try:
                value, error = self._read.get(timeout=POLL)
            except queue.Empty:
                if give_up():
                    return None
                continue
            if error is not None:
                raise error
            return value

    def close(self) -> None:
        """Closes the iterator and ends the thread, at once or when the read that it is in returns."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            self._read.get_nowait()  # what the thread may wait to put
        self._thread.join(POLL)

    def _run(self, batches: Iterator[Any]) -> None:
        with contextlib.closing(batches):
            while not self._closed.is_set():
                try:
                    read = next(batches), None
                except BaseException as error:  # the caller's to raise
                    read = None, error
                self._read.put(read)
                if read[1] is not None:
                    return
