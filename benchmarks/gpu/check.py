"""Compiles what the parts will run for an H200 that is not here, so that no mistake costs minutes of one that is lent.

    python -m benchmarks.gpu.check [--ours] [PART ...]      with --ours, without other people's code

Needs the wheels of `benchmarks.gpu_kernels`. Of each program: seconds to compile and MiB of temporaries, kept in
benchmarks/results/gpu.check.json. Ours must compile, and fit the device. Other people's JAX code is compiled where it
lets itself; what it says instead is kept. All are made to believe in the device that is described. Torch's cannot be
checked so. Of cuDNN's graphs only the shapes are checked: XLA builds them where there is cuDNN.
"""

import argparse
import contextlib
import importlib
import sys
import time
import unittest.mock
from collections.abc import Iterator

from benchmarks import ahead_of_time, gpu_kernels, measure  # first: it sets the environment

import jax
import jax.extend

from benchmarks.gpu.names import PARTS
from benchmarks.gpu.part import PEERS

OURS = ("own", "default", "xla", "blocks", "lax.ragged_dot", "")
DEVICE_BYTES = 139 * 2**30


@contextlib.contextmanager
def described(where) -> Iterator[None]:
    """In which those who ask JAX for its devices find the one described, and cuDNN's version is known."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    devices = list(where.mesh.devices.flat)
    mocked = {
        (jax, "devices"): lambda *args, **given: devices,
        (jax, "default_backend"): lambda: "gpu",
        (jax.extend.backend, "get_default_device"): lambda: devices[0],
        (fused, "check_cudnn_version"): lambda: 91200,
        (fused, "check_compute_capability"): lambda wanted: True,
    }
    with contextlib.ExitStack() as stack:
        for (module, name), function in mocked.items():
            stack.enter_context(unittest.mock.patch.object(module, name, function))
        yield


def check(part: str, *, ours: bool = False) -> list[dict]:
    """A row for each program of the part; of ours alone, if wanted."""
    where, rows = ahead_of_time.on_one("H200"), []
    for piece, make in importlib.import_module(f"benchmarks.gpu.{part}").PIECES.items():
        for side, what, lower in make().lowered(where):
            if ours and side not in OURS:
                continue
            row = dict(piece=piece, side=side, what=what)
            start = time.process_time()
            try:
                with described(where):
                    compiled = lower().compile()
                row |= ahead_of_time.sizes(compiled)
            except ImportError as error:
                row["missing"] = str(error)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:300]
            rows.append(row | dict(cpu_s=round(time.process_time() - start, 1)))
            print(rows[-1], flush=True)
    return rows


def wrong(rows: list[dict]) -> list[dict]:
    """Ours that do not compile, or do not fit."""
    size = lambda row: row.get("temporary_bytes", 0) + row.get("operand_and_result_bytes", 0)
    return [row for row in rows if row["side"] in OURS and ("error" in row or size(row) > DEVICE_BYTES)]


def main() -> None:
    """See the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.check")
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *PARTS], help=f"of {', '.join(PARTS)}")
    parser.add_argument("--ours", action="store_true", help="without other people's code")
    given = parser.parse_args()
    if gpu_kernels.missing():
        sys.exit(f"not installed: {' '.join(gpu_kernels.missing())}; see benchmarks/gpu_kernels.py")
    sys.path.append(str(PEERS))
    bad = []
    for part in given.parts or PARTS:
        rows = check(part, ours=given.ours)
        measure.add("gpu.check", (part,), dict(target="NVIDIA H200, none here", rows=rows))
        bad += wrong(rows)
    sys.exit(f"{len(bad)} programs of ours do not compile or fit: {bad}" if bad else 0)


if __name__ == "__main__":
    main()
