"""Brings packages into the folder .peers, for a machine with Python 3.12 that can reach nothing.

    python -m benchmarks.gpu.carry

Those that are compared with, and of those that we need what that machine lacks; it has torch, triton, JAX, Flax, optax,
einops, equinox ... It wants pip and a network here, and for mamba-ssm, which must be built, a Python that has torch:
ARCH_PEERS_PYTHON (`make peers` makes one). The folder is ignored by git: a tool that sends the working tree must be
told to carry it. `benchmarks.gpu.part` puts it behind what is installed.

tokamax imports xprof, a profiler of 32 MB of which these contests use nothing: an empty package stands in. mamba-ssm
comes without its CUDA extension, which must be built for that machine's torch (MAMBA_FORCE_BUILD=TRUE pip wheel
mamba-ssm, for sm_90 alone) and selective_scan_cuda.*.so put into the folder; its Triton part runs without.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from arch.train.verify import peers_python
from benchmarks.gpu.part import PEERS
from benchmarks.gpu.peers import VERSIONS

WHEELS = (
    *("grain==0.2.18", "array-record==0.8.6", "portpicker==1.6.0"),
    *(f"{name}=={version}" for name, version in VERSIONS.items() if name != "mamba-ssm"),
    *("pydantic==2.12.5", "pydantic-core==2.41.5", "typing-inspection==0.4.2", "annotated-types==0.7.0"),
    *("qwix==0.1.8", "einshape==1.0", "immutabledict==4.3.1", "tensorboardX==2.6.5"),
)
TARGET = ("--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
STANDS_IN = (
    "xprof/__init__.py",
    "xprof/cli/__init__.py",
    "xprof/cli/tools/__init__.py",
    "xprof/cli/tools/get_kernel_stats_tool.py",
)


def pip(*arguments: str, python: str = sys.executable, **environment: str) -> None:
    """Runs pip, or ends with what it says."""
    subprocess.run([python, "-m", "pip", *arguments], check=True, env=os.environ | environment)


def mamba_without_cuda() -> None:
    """The package, all of Python, built from its source."""
    name = f"mamba-ssm=={VERSIONS['mamba-ssm']}"
    how = dict(MAMBA_FORCE_BUILD="TRUE", MAMBA_SKIP_CUDA_BUILD="TRUE")
    with tempfile.TemporaryDirectory() as scratch:
        build = ("wheel", "--no-deps", "--no-binary", "mamba-ssm", "--no-build-isolation", "-w", scratch, name)
        pip(*build, python=peers_python(), **how)
        (wheel,) = pathlib.Path(scratch).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(PEERS)


def main() -> None:
    """See the file."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip("install", "--no-deps", "--no-compile", "--upgrade", "--target", str(PEERS), *TARGET, *platforms, *WHEELS)
    for name in STANDS_IN:
        path = PEERS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    mamba_without_cuda()
    size = sum(path.stat().st_size for path in PEERS.rglob("*") if path.is_file())
    print(f"{PEERS}: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
