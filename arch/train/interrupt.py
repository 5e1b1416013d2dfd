"""SIGTERM and SIGINT as a request to stop at the next safe point, instead of a stop in the middle of one."""

import contextlib
import os
import signal
import threading

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """Context manager that turns the first SIGTERM or SIGINT (Ctrl-C) into a flag for the loop to look at.

        with Interrupt() as interrupt:
            for step in ...:
                ...
                if interrupt.requested:
                    save; break

    `requested` is the signal's name ('SIGTERM' or 'SIGINT'), or '' while there was none. The first signal prints one
    line and gives SIGINT back to the system, so that a Ctrl-C after that line ends the process at once, stuck or not;
    further SIGTERMs change nothing. On exit the handlers are what they were.

    Python runs handlers between two bytecodes of the main thread: a signal that arrives during a long call into C++,
    such as the compilation of the step or a wait for the device, is seen when that call returns, not before and not
    never. Handlers can be set from the main thread only; entered in another thread, this catches nothing.
    """

    def __init__(self):
        self.requested = ""
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in _CAUGHT}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            if handler is not None:  # None: it was not set from Python, and cannot be set again from here
                signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number, frame):
        del frame
        if self.requested:
            return
        self.requested = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        line = f"\n{self.requested}: stopping at the next safe point, with a checkpoint; Ctrl-C now stops at once\n"
        with contextlib.suppress(OSError):  # a closed terminal must not keep the checkpoint from being written
            os.write(2, line.encode())  # not print: a handler may run in the middle of one
