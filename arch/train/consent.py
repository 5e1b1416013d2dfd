"""Processes stop before the same step: at each turn all say whether they go on, through the store of `jax.distributed`.

A turn is where every process comes, in the same order: in front of a step, or of a batch of an evaluation.

    votes(t) = sum over the processes that have come to turn t of 1, and STOP more of each that was asked to stop
    verdict(t) = 'stop' if votes(t) >= STOP else 'go', written by the last to come, read by all others

The store is in the memory of process 0, reached over the hosts' network. No device has a part in it, so that devices
stay busy with the step before; and whoever waits here looks up every `POLL` seconds. A process that was asked to stop
says so beside the votes: one that waits for its data gives that up. One that fails writes the verdict of the turn to
which it will not come: so the others end, and say why.
"""

import contextlib
import itertools
import socket
from typing import Any, NamedTuple

import jax

from arch.train.interrupt import Interrupt

POLL = 0.25
"""Seconds between two looks at what has been asked of this process, while it waits for the others."""
STOP = 2**15
"""More than there are processes; the store counts up to 2**31."""
FAILED, ELSEWHERE = "failed", "a signal to another process"

_RUNS = itertools.count()
"""Runs follow each other in a process, in all processes the same ones."""


class Place(NamedTuple):
    """A process among those of a run.

    index, count: which it is, and of how many.
    store: its client of the coordination service; None if it is the only one.
    keys: what the run's keys in the store begin with.
    """

    index: int
    count: int
    store: Any
    keys: str


def here() -> Place:
    """This process, in a new run. JAX gives the client no public name; orbax takes it from the same place."""
    from jax._src import distributed

    return Place(jax.process_index(), jax.process_count(), distributed.global_state.client, f"arch/run/{next(_RUNS)}")


class FailedError(RuntimeError):
    """Another process failed; the message names it and what it said."""


class Consent:
    """Context manager around a run's turns; an error that leaves it is told to the other processes.

    Args:
      interrupt: the signals of this process.
      place: of this process; None to find it.
    """

    def __init__(self, interrupt: Interrupt, place: Place | None = None):
        self._interrupt, self._others, self._turn, self._told = interrupt, "", 0, False
        self._index, self._count, self._store, self._keys = place or here()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and self._count > 1:
            what = f"{kind.__name__}: {error}".splitlines()[0]
            text = f"{FAILED}: process {self._index} ({socket.gethostname()}): {what}"
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is no more
                self._store.key_value_set(self._key("verdict", self._turn + 1), text, allow_overwrite=True)

    def wanted(self) -> str:
        """Between two turns: why this process should stop at the next one, '' while it should not."""
        if not self._others and self._count > 1 and self._store.key_value_dir_get(f"{self._keys}/wanted/"):
            self._others = ELSEWHERE
        return self._interrupt.requested or self._others

    def stop(self) -> str:
        """A turn: why all processes stop here, '' where they go on. It waits for all of them.

        Raises:
          FailedError: another process has failed.
        """
        requested = self._interrupt.requested or self._others
        if self._count == 1:
            return requested
        self._tell()
        self._turn += 1
        votes = self._store.key_value_increment(self._key("votes", self._turn), STOP + 1 if requested else 1)
        verdict = self._give(votes) if votes % STOP == self._count else self._await()
        if verdict.startswith(FAILED):
            raise FailedError(verdict)
        return (self._interrupt.requested or ELSEWHERE) if verdict == "stop" else ""

    def _give(self, votes: int) -> str:
        """The verdict of this turn; nobody needs that of the one before any more."""
        verdict = "stop" if votes >= STOP else "go"
        self._store.key_value_set(self._key("verdict", self._turn), verdict)
        for what in ("votes", "verdict"):
            self._store.key_value_delete(self._key(what, self._turn - 1))
        return verdict

    def _await(self) -> str:
        while True:
            try:
                return self._store.blocking_key_value_get(self._key("verdict", self._turn), round(1000 * POLL))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            self._tell()

    def _tell(self) -> None:
        """Lets those who wait for data know of a signal."""
        if self._interrupt.requested and not self._told:
            self._store.key_value_set(f"{self._keys}/wanted/{self._index}", self._interrupt.requested)
            self._told = True

    def _key(self, what: str, turn: int) -> str:
        return f"{self._keys}/{what}/{turn}"
