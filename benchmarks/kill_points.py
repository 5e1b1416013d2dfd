"""Kills runs at random moments, and holds what the next processes go on with to a run that nobody killed.

    python -m benchmarks.kill_points [FOLDER]        goes on where it was stopped; FOLDER holds the runs while they go

Ten chains of five points: a run is started on 1, 2 or 4 processes (always four devices), killed by SIGKILL at a moment
drawn from the seed, and started again on a number of processes drawn likewise; behind its fifth kill it goes to its
end. In chains 0 to 5 the number stays what it is. A third of the kills comes at any time of a start, the others behind
a number of steps; all processes are killed, in random order. The text is a mixture of two sources, packed.

Of each point is told: which checkpoints it left, whether each is whole (`arch.train.seal`), and how many steps' rows
were read again. Of each chain: whether every row of every step that any of its processes took, those taken again among
them, is the row of the run on one process that was not killed, byte for byte; the largest relative difference of a
loss from that run, and from that on its own number of processes; and how much of the time that passed
WORKDIR/goodput.json accounts for.
"""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib


from benchmarks import measure

ROOT = pathlib.Path(__file__).parents[1]
CHAINS, POINTS, STEPS, DEVICES = 10, 5, 48, 4
COUNTS = (1, 2, 4)
SAME = (1, 2, 4, 1, 2, 4)
"""Numbers of processes of the chains in which it stays."""


def child() -> None:
    """`run.py`, which also appends a line for each step to WORKDIR/rows.<process>.jsonl: checksums of its rows."""
    import runpy

    from arch.train import guard

    take = guard.Guard.take

    def telling(self, state, rows, step):
        import jax

        names = sorted(rows)
        sums = [zlib.crc32(b"".join(rows[name][i].tobytes() for name in names)) for i in range(len(rows["ids"]))]
        with open(self._setup.workdir / f"rows.{jax.process_index()}.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "rows": dict(zip(rows["ids"].tolist(), sums))}) + "\n")
        return take(self, state, rows, step)

    guard.Guard.take = telling
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


class Runs:
    """Starts the processes of runs.

    Args:
      folder: of all of them.
      steps: of a run.
      flags: more of them.
    """

    def __init__(self, folder: pathlib.Path, steps: int = STEPS, flags: tuple[str, ...] = ()):
        self.folder, self.steps = folder, steps
        folder.mkdir(parents=True, exist_ok=True)
        parts = [
            {"path": str(write_text(folder / f"{i}.txt", seed=i)), "weight": 3 - i, "piece_chars": 17} for i in range(2)
        ]
        self._flags = [
            f"--config={ROOT / 'tests' / 'train' / 'tiny.py'}:mlp", f"--config.data.mixture={tuple(parts)}",
            "--config.data.piece_chars=8192", f"--config.total_steps={steps}", "--config.eval_every_steps=16",
            "--config.mesh.data=2", "--config.mesh.fsdp=2", "--multihost", *flags,
        ]  # fmt: skip

    def start(self, name: str, count: int) -> list[subprocess.Popen]:
        """The processes of a run; what they say is in its files said.<process>.txt."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        workdir = self.folder / name
        workdir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.kill_points", "child", *self._flags, f"--workdir={workdir}"]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count), "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        processes = []
        for index in range(count):
            cache = {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache" / f"{count}.{index}")}
            where = environment | cache | {"JAX_PROCESS_ID": str(index)}
            with open(workdir / f"said.{index}.txt", "w") as said:
                processes.append(subprocess.Popen(command, env=where, stderr=said, cwd=ROOT))
        return processes

    def finish(self, name: str, count: int) -> None:
        """Starts a run, and waits for its end. Raises RuntimeError with what it said if it fails."""
        processes = self.start(name, count)
        try:
            statuses = [process.wait(timeout=6 * 3600) for process in processes]
        finally:
            kill(processes)
        if any(statuses):
            raise RuntimeError("\n".join(file.read_text() for file in (self.folder / name).glob("said.*.txt")))

    def step(self, name: str) -> int:
        """The last step that the present process of a run has logged, -1 before the first."""
        found = re.findall(r"^step (\d+)/", (self.folder / name / "said.0.txt").read_text(), re.MULTILINE)
        return int(found[-1]) if found else -1


def write_text(file: pathlib.Path, seed: int) -> pathlib.Path:
    """Documents of random words."""
    words = "all happy families are alike each unhappy family is unhappy in its own way".split()
    chosen = random.Random(seed).choices(words, k=3000)
    file.write_text("\n".join(" ".join(chosen[i : i + 6]) for i in range(0, len(chosen), 6)))
    return file


def kill(processes: list[subprocess.Popen]) -> None:
    """SIGKILL for each."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def point(runs: Runs, name: str, count: int, rng: random.Random) -> dict:
    """Starts a run, kills it, and tells what it left."""
    from arch.train import seal

    early, steps, delay = rng.random() < 1 / 3, rng.randint(1, 8), rng.random()
    before = newest(runs.folder / name)
    begin = time.time()
    processes = runs.start(name, count)
    try:
        if early:
            time.sleep(8 * delay)
        else:
            while runs.step(name) < max(before, 0) + steps and all(p.poll() is None for p in processes):
                time.sleep(0.002)
            time.sleep(0.2 * delay)
        ended = [p.poll() for p in processes if p.poll() is not None]
    finally:
        rng.shuffle(processes)
        kill(processes)
    if ended:
        raise RuntimeError((runs.folder / name / "said.0.txt").read_text())
    folder = runs.folder / name / "checkpoints"
    left = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    return dict(
        processes=count,
        early=early,
        seconds=round(time.time() - begin, 1),
        from_step=max(before, 0),
        to_step=max(runs.step(name), 0),
        checkpoints=left,
        damaged=[step for step in left if seal.damage(folder / str(step))],
        unfinished=len(list(folder.glob("*tmp*"))),
    )


def newest(workdir: pathlib.Path) -> int:
    """The step of the newest checkpoint, -1 if there is none."""
    return max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()), default=-1)


def rows(workdir: pathlib.Path) -> dict[int, dict[str, set[int]]]:
    """{step: {sample: checksums}} of all rows that any process of a run took."""
    found: dict = collections.defaultdict(lambda: collections.defaultdict(set))
    for file in workdir.glob("rows.*.jsonl"):
        for line in file.read_text().splitlines():
            if line.endswith("}}"):  # else cut short
                told = json.loads(line)
                for sample, checksum in told["rows"].items():
                    found[told["step"]][sample].add(checksum)
    return found


def losses(workdir: pathlib.Path) -> dict[int, float]:
    """The loss of each step."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def difference(workdir: pathlib.Path, other: pathlib.Path) -> float:
    """The largest relative difference of a loss; infinite where the steps are not the same."""
    mine, theirs = losses(workdir), losses(other)
    if mine.keys() != theirs.keys():
        return float("inf")
    return max(abs(mine[step] / theirs[step] - 1) for step in mine)


def chain(runs: Runs, number: int, counts: list[int], rng: random.Random) -> dict:
    """Kills a run as often as there are counts but one, lets it end on the last, and compares it with whole ones."""
    name, begin = f"chain_{number}", time.time()
    points = [point(runs, name, count, rng) for count in counts[:-1]]
    runs.finish(name, counts[-1])
    elapsed = time.time() - begin
    workdir, whole = runs.folder / name, runs.folder / "whole_1"
    mine, theirs = rows(workdir), rows(whole)
    accounted = sum(json.loads((workdir / "goodput.json").read_text())["seconds"].values())
    own = f"whole_{counts[0]}" if len(set(counts)) == 1 else ""
    return dict(
        chain=number,
        counts=counts,
        points=points,
        same_rows=mine == theirs,
        rows_read=sum(len(samples) for samples in mine.values()),
        steps=len(losses(workdir)),
        loss_difference=difference(workdir, whole),
        loss_difference_same_count=difference(workdir, runs.folder / own) if own else None,
        accounted=round(accounted / elapsed, 3),
    )


def counts_of(number: int, rng: random.Random) -> list[int]:
    """The numbers of processes of a chain's starts."""
    fixed = SAME[number] if number < len(SAME) else 0
    return [fixed or rng.choice(COUNTS) for _ in range(POINTS + 1)]


def main(folder: pathlib.Path) -> None:
    """Runs what is not in the results yet."""
    file = measure.RESULTS / "kill_points-cpu.json"
    found = json.loads(file.read_text())["rows"] if file.exists() else []
    runs = Runs(folder)
    for count in COUNTS:
        runs.finish(f"whole_{count}", count)  # at once, if it has been at its end
    for number in range(len(found), CHAINS):
        rng = random.Random(number)
        shutil.rmtree(folder / f"chain_{number}", ignore_errors=True)
        found.append(chain(runs, number, counts_of(number, rng), rng))
        measure.write("kill_points", found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        del sys.argv[1]
        child()
    else:
        main(pathlib.Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp(prefix="kill_points")).absolute())
