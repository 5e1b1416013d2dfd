"""Runs the pieces of one part that are not kept yet, and keeps each at once. `python -m benchmarks.gpu` starts it.

    python -m benchmarks.gpu.part NAME UNTIL SINCE

It begins no piece when little time is left before UNTIL, seconds since 1970, and repeats what is kept from before
SINCE. A piece that takes longer than the part's SECONDS ends the process, which is then started again without it.
"""

import faulthandler
import importlib
import importlib.metadata
import platform
import secrets
import sys
import time
from types import ModuleType

import jax
import jax.numpy as jnp
import jaxlib

from benchmarks.gpu.kept import ROOT, Kept
from benchmarks.gpu.names import BROKEN, NO_GPU
from benchmarks.gpu.peers import VERSIONS

LEAST_S = 45
"""Seconds before UNTIL from which on no piece begins."""
PEERS = ROOT / ".peers"
"""Where `benchmarks.gpu.carry` brings packages; behind those that are installed."""
PACKAGES = (*VERSIONS, "torch", "triton", "transformers", "nvidia-cudnn-cu13")


def need_gpu() -> None:
    """Ends the process with one line where JAX sees no GPU."""
    try:
        found = jax.devices()[0]
        seen = "" if found.platform == "gpu" else f"JAX sees {found.platform} ({found.device_kind})"
    except RuntimeError as error:
        seen = str(error).splitlines()[0]
    if seen:
        print(f"no GPU: {seen}; what can be checked without one: python -m benchmarks.gpu.check")
        sys.exit(NO_GPU)


def where() -> dict:
    """The device and the versions."""
    versions = dict(python=platform.python_version(), jax=jax.__version__, jaxlib=jaxlib.__version__)
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    client = jax.devices()[0].client
    return dict(
        device=jax.devices()[0].device_kind, platform=client.platform_version.split("\n")[-1], versions=versions
    )


def run(module: ModuleType, kept: Kept, *, until: float, since: str = "", **how) -> bool:
    """Whether all pieces of the module are kept now; `how` goes to each."""
    for name, make in module.PIECES.items():
        if kept.has(name, since):
            continue
        if until - time.time() < LEAST_S:
            return False
        kept.begin(name)
        print(f"  {name}", flush=True)
        start = time.perf_counter()
        faulthandler.dump_traceback_later(module.SECONDS, exit=True)
        try:
            found = {"rows": make().run(seed=secrets.randbits(31), **how)}
        except Exception as error:  # kept, so that the other pieces have their turn
            found = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
            print(f"  {name}: {found['failed']}", flush=True)
        finally:
            faulthandler.cancel_dump_traceback_later()
        kept.end(found | dict(seconds=round(time.perf_counter() - start, 1), **where()))
        _must_answer()
    return True


def _must_answer() -> None:
    """Ends the process if the device does not: after an illegal access to its memory it does nothing any more."""
    try:
        jnp.ones(8).sum().block_until_ready()
    except Exception as error:
        print(f"  the device answers no more: {str(error)[:200]}", flush=True)
        sys.exit(BROKEN)


def main(name: str, until: str, since: str = "") -> None:
    """See the file."""
    need_gpu()
    sys.path.append(str(PEERS))
    try:
        module = importlib.import_module(f"benchmarks.gpu.{name}")
    except ModuleNotFoundError as error:
        sys.exit(f"{name} needs {error.name}, which is not installed: python -m benchmarks.gpu.carry, and carry .peers")
    if not run(module, Kept(name), until=float(until), since=since):
        print(f"  {name}: not all yet")


if __name__ == "__main__":
    main(*sys.argv[1:])
