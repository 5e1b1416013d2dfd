"""All parts, each in processes of its own, and then the table: see `benchmarks.gpu`.

    python -m benchmarks.gpu [PART ...] [--minutes=M] [--again]

With --minutes nothing begins that late; the same command goes on. With --again what is kept is run anew.
"""

import argparse
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.gpu import report
from benchmarks.gpu.kept import ROOT, Kept
from benchmarks.gpu.names import BROKEN, NO_GPU, PARTS

FOREVER = 24 * 60.0


def run_part(part: str, until: float, since: str, start: Callable[[str, float, str], int]) -> str:
    """Runs a part until it is done or time is over, in a new process after each that dies. '' or what went wrong."""
    while True:
        status = start(part, until, since)
        if status == 0:
            return ""
        if status == NO_GPU:
            sys.exit(NO_GPU)
        kept = Kept(part)
        if status == BROKEN:
            continue
        if not kept.running:
            return f"{part}: its process ended with {status} outside of any piece"
        kept.fail(f"its process ended with {status}, by an error of the device or after the part's limit of time")
        if time.time() >= until:
            return f"{part}: not all yet"


def process(part: str, until: float, since: str) -> int:
    """The exit status of a process that runs the part."""
    print(part, flush=True)
    command = [sys.executable, "-m", "benchmarks.gpu.part", part, str(until), since]
    return subprocess.run(command, env=os.environ | PARTS[part], cwd=ROOT, check=False).returncode


def main(argv: list[str] | None = None) -> None:
    """See the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--minutes", type=float, default=FOREVER, help="after which nothing more begins")
    parser.add_argument("--again", action="store_true", help="run what is kept anew")
    given = parser.parse_args(argv)
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"{part!r} must be one of {', '.join(PARTS)}")
    until = time.time() + 60 * given.minutes
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds") if given.again else ""
    wrong = [run_part(part, until, since, process) for part in given.parts or PARTS]
    print(report.text())
    for line in filter(None, wrong):
        print(line)
    sys.exit(1 if any(wrong) else 0)


if __name__ == "__main__":
    main()
