"""Times compiled functions and writes what was measured, with what is needed to measure it again, as JSON."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jaxlib

RESULTS = pathlib.Path(__file__).parent / "results"


def measure(functions: dict[str, Callable], *args, peer: str, repeats: int = 7) -> list[dict]:
    """Compiles each function for `args`, warms it up, and times them in turns, so that all share the machine's moods.

    Returns:
        A row for each function: wall-clock milliseconds of a run (median and least of `repeats`), seconds to compile,
        MiB of temporaries, and `speedup`, the peer's median over its own.
    """
    rows, compiled, times = [], {}, {name: [] for name in functions}
    for name, function in functions.items():
        start = time.perf_counter()
        compiled[name] = jax.jit(function).lower(*args).compile()
        temp_mib = compiled[name].memory_analysis().temp_size_in_bytes / 2**20
        rows.append(dict(name=name, compile_s=round(time.perf_counter() - start, 2), temp_mib=round(temp_mib, 2)))
        jax.block_until_ready(compiled[name](*args))
    for _ in range(repeats):
        for name, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*args))
            times[name].append(1e3 * (time.perf_counter() - start))
    median = {name: statistics.median(samples) for name, samples in times.items()}
    for row in rows:
        name = row["name"]
        row.update(median_ms=round(median[name], 3), least_ms=round(min(times[name]), 3))
        row.update(speedup=round(median[peer] / median[name], 2))
    return rows


def seconds(run: Callable[[], object]) -> float:
    """That a run takes."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def with_gradients(function: Callable, num_arrays: int) -> Callable:
    """`f(*arrays, *rest, dy) -> y, gradients by the arrays`, to time forward and backward together."""

    def run(*args):
        arrays, rest, dy = args[:num_arrays], args[num_arrays:-1], args[-1]
        y, vjp = jax.vjp(lambda *arrays: function(*arrays, *rest), *arrays)
        return y, vjp(dy)

    return run


def write(name: str, rows: list[dict]) -> None:
    """Writes benchmarks/results/<name>-<platform>.json and prints its rows as a table."""
    header = dict(
        command=f"python -m benchmarks.{name}",
        date=today(),
        device=device(),
        versions=dict(python=platform.python_version(), jax=jax.__version__, jaxlib=jaxlib.__version__),
    )
    write_rows(f"{name}-{jax.devices()[0].platform}", header, rows)


def write_rows(name: str, header: dict, rows: list[dict]) -> None:
    """Writes benchmarks/results/<name>.json, a row a line behind the header, and prints the rows as a table."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    path.write_text(f'{json.dumps(header, indent=2)[:-2]},\n  "rows": [\n{lines}\n  ]\n}}\n')
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    print(path.relative_to(pathlib.Path.cwd()))


def add(name: str, arguments: tuple[str, ...], row: dict, *, platform: str = "") -> None:
    """Prints what a command gave and keeps it, in place of what it gave before.

    Args:
      name: of the benchmark; the file is benchmarks/results/<name>.json.
      arguments: of the command.
      row: what it gave.
      platform: where it ran, if it did: the file is <name>-<platform>.json.
    """
    row = row | dict(date=today()) | compilers()
    print(json.dumps(row, indent=2))
    path = RESULTS / f"{name}{platform and f'-{platform}'}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[_command(name, arguments)] = row
    path.write_text(json.dumps(known, indent=2) + "\n")


def kept(name: str, arguments: tuple[str, ...]) -> dict:
    """What `add` kept of a command that ran nowhere; {} for nothing."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()).get(_command(name, arguments), {}) if path.exists() else {}


def _command(name: str, arguments: tuple[str, ...]) -> str:
    return " ".join([f"python -m benchmarks.{name}", *arguments])


def compilers() -> dict[str, str]:
    """The versions of JAX, of jaxlib and, where it was loaded, of libtpu, which must be the one that JAX names."""
    found = dict(jax=jax.__version__, jaxlib=jaxlib.__version__)
    if "libtpu" not in sys.modules:
        return found
    version = importlib.metadata.version("libtpu")
    (wanted,) = filter(None, (re.match(r"libtpu==([\d.]+)\.\*", line) for line in importlib.metadata.requires("jax")))
    if not f"{version}.".startswith(f"{wanted[1]}."):
        raise ImportError(f"libtpu=={version} must be {wanted[1]}.* with jax=={jax.__version__}: jax[tpu] has it")
    return found | dict(libtpu=version)


def device() -> str:
    """The device that runs this, in words."""
    found = jax.devices()[0]
    return f"{found.platform} {found.device_kind}, {os.cpu_count()} CPU cores"


def today() -> str:
    """The date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
