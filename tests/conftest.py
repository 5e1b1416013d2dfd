"""Prepares the process before `arch` or JAX is imported: CPU with 8 devices, and every annotated shape checked.

Each pytest-xdist worker imports this file for itself, so the same holds with and without `-n`.
"""

import gc
import itertools
import os
import pathlib
import sys

import pytest
from jaxtyping import install_import_hook

already = sorted(name for name in sys.modules if name == "arch" or name.startswith("arch."))
if already:
    raise RuntimeError(f"{already} imported before tests/conftest.py: their annotations would go unchecked")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = {
    "xla_force_host_platform_device_count": "8",
    # The tests compile much and compute little. The older way from fusions to LLVM takes a quarter of the time.
    "xla_backend_extra_options": "xla_cpu_disable_new_fusion_emitters",
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",  # see arch/train/cpu_devices.py
    # Eight devices take turns on two cores, which others may use too: XLA ends a process whose devices wait for 40 s.
    "xla_cpu_collective_call_terminate_timeout_seconds": "600",
}
for flag, value in FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --{flag}={value}"
# So do the processes they start. Those that measure ask for `optimized`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Tracing makes many objects and drops few: Python's collector, at 700 new ones, takes a tenth of the tests' time.
gc.set_threshold(200_000)

# The numeric tower: an int is a float, as Python's own annotations have it (PEP 484).
install_import_hook("arch", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def optimized(monkeypatch):
    """Compiles as users do, in two to three times the time: for tests that read what XLA made of a program."""
    import jax

    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


_ENDED = itertools.count(1)


def pytest_runtest_teardown():
    """Drops what JAX has compiled before it is too much for Linux, which lets a process map memory 65,530 times.

    Each program for CPUs takes about ten mappings, and JAX keeps all programs: at the limit the next one ends in a
    segmentation fault.
    """
    maps = pathlib.Path("/proc/self/maps")
    if next(_ENDED) % 50 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        import jax

        jax.clear_caches()
        gc.collect()
