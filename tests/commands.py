"""Runs command lines of run.py as a user would, either in a process each or one after another in a single process.

The single process imports JAX once instead of once a case, has nothing of pytest's in it (no shape checks, no handlers
of logging), compiles with few optimisations, and answers each line of JSON on its standard input with one on its
standard output.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Result(NamedTuple):
    """How a command ended: exit status, standard output, standard error.

    seconds: of processor time, which unlike the clock's does not depend on what else the machine does.
    """

    status: int
    out: str
    error: str
    seconds: float


def run_process(*arguments: str, timeout: float = 300.0) -> Result:
    """A process of its own, on one CPU device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    start = _children_seconds()
    done = subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr, _children_seconds() - start)


def _children_seconds() -> float:
    """Processor time of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Server:
    """The single process, on the devices of the tests: call it with a command line's arguments."""

    def __enter__(self):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands"],
            cwd=ROOT, stdin=pipe, stdout=pipe, text=True,
        )  # fmt: skip
        return self

    def __call__(self, *arguments: str) -> Result:
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return Result(*json.loads(self._process.stdout.readline()))

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def _serve() -> None:
    import run

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
            os.dup2(out.fileno(), 1)  # not redirect_stderr: compiled code may write there too
            os.dup2(error.fileno(), 2)
            start = time.process_time()
            status = _status(run.main, ["run.py", *json.loads(line)])
            seconds = time.process_time() - start
            sys.stdout.flush()
            sys.stderr.flush()
            texts = []
            for stream in (out, error):
                stream.seek(0)
                texts.append(stream.read().decode())
        print(json.dumps([status, *texts, seconds]), file=answers, flush=True)


def _status(main, argv: list[str]) -> int:
    from absl.testing import flagsaver

    sys.argv = argv  # where the config's library looks for overrides
    with flagsaver.flagsaver():
        try:
            main(argv)
        except SystemExit as end:
            return end.code or 0
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


if __name__ == "__main__":
    _serve()
