"""The chips that a plan is for, described: `v5p:4x4x4`, two slices `v5e:8x8,slices=2`, a GPU node `h200:8`.

Peak FLOP/s are those of `arch.train.utilization`. Of TPUs: Google Cloud's page on each ("HBM bandwidth", "HBM
capacity", half of the "bidirectional ICI bandwidth", "DCN bandwidth", each per chip), v4's links as in Jouppi et al.,
TPU v4, 2023, arXiv 2304.01433, table 4. Of GPUs: NVIDIA's data sheets of each (HBM, half of the "NVLink bandwidth") and
of DGX A100, H100, H200, B200 (one network card a GPU).
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from arch.train.utilization import PEAKS, TERA

GIGA, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of them. All numbers are of a JAX device, of which a chip of v4 and of TPU7x is two for libtpu.

    Attributes:
      kind: as JAX calls the device.
      peak: dense bfloat16 FLOP/s.
      capacity: bytes of its memory that a program may use; of a TPU as libtpu says where it refuses one.
      memory: bytes/s that it reads or writes.
      links: bytes/s that it receives from others of its slice, or node, over all links together.
      between: bytes/s from other slices or nodes; 0 where that is not known.
      devices: JAX devices of a chip.
    """

    kind: str
    peak: float
    capacity: float
    memory: float
    links: float
    between: float
    devices: int = 1

    @property
    def is_tpu(self) -> bool:
        """Whether libtpu compiles for it."""
        return self.kind.startswith("TPU")


def _chip(kind, capacity, memory, links, between, devices=1, peak=None) -> Chip:
    peak = PEAKS[kind] if peak is None else peak
    return Chip(kind, peak * TERA, capacity, memory * GIGA, links * GIGA, between * GIGA, devices)


CHIPS = {
    "v4": _chip("TPU v4", 15.25 * GIB, 1200 / 2, 300 / 2, 0, devices=2, peak=PEAKS["TPU v4"] / 2),
    "v5e": _chip("TPU v5 lite", 15.75 * GIB, 819, 200, 25 / 8),
    "v5p": _chip("TPU v5", 95.73 * GIB, 2765, 600, 50 / 8),
    "v6e": _chip("TPU v6 lite", 31.24 * GIB, 1638, 400, 100 / 8),
    "tpu7x": _chip("TPU7x", 94.74 * GIB, 7380 / 2, 600 / 2, 100 / 2 / 8, devices=2),
    "a100": _chip("NVIDIA A100-SXM4-80GB", 80e9, 2039, 300, 25),
    "h100": _chip("NVIDIA H100 80GB HBM3", 80e9, 3350, 450, 50),
    "h200": _chip("NVIDIA H200", 141e9, 4800, 450, 50),
    "b200": _chip("NVIDIA B200", 180e9, 8000, 900, 50),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of TPUs, or nodes of GPUs.

    Attributes:
      name: of the chip, a key of CHIPS.
      shape: of a slice, in chips: (4, 4, 4); of a node how many GPUs.
      slices: how many there are.
    """

    name: str
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self):
        text = f"{self.name}:{'x'.join(map(str, self.shape))}"
        return text if self.slices == 1 else f"{text},slices={self.slices}"

    @property
    def chip(self) -> Chip:
        """What it is made of."""
        return CHIPS[self.name]

    @property
    def chips(self) -> int:
        """All of them."""
        return math.prod(self.shape) * self.slices

    @property
    def size(self) -> int:
        """JAX devices."""
        return self.chips * self.chip.devices


def parse(text: str) -> Topology:
    """The topology that a flag names.

    Raises:
      ValueError: it is none, naming the rule.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:,slices=(\d+))?", text)
    if not found or found[1] not in CHIPS:
        raise ValueError(
            f"--topology={text!r} must be CHIP:SHAPE or CHIP:SHAPE,slices=N, such as v5e:8x8, v5p:4x4x4,slices=2 or "
            f"h200:8, with a chip among {', '.join(CHIPS)}"
        )
    topology = Topology(found[1], tuple(map(int, found[2].split("x"))), int(found[3] or 1))
    if not topology.size:
        raise ValueError(f"--topology={text!r} must have at least one chip")
    if not topology.chip.is_tpu and len(topology.shape) > 1:
        raise ValueError(f"--topology={text!r} must be {topology.name}:N, the GPUs of a node, and slices=N, the nodes")
    if topology.slices > 1 and not topology.chip.between:
        raise ValueError(f"--topology={text!r} must have one slice: the bandwidth between slices is not known")
    return topology


def devices(topology: Topology) -> Sequence[jax.Device]:
    """Its devices, for which programs can be compiled but not run; libtpu describes them.

    Raises:
      ValueError: libtpu is absent, another than JAX wants, or knows no such slice.
    """
    must_have_libtpu(topology)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    name = f"{topology.name}:{'x'.join(map(str, topology.shape))}"
    slices = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        return topologies.get_topology_desc(topology_name=name, platform="tpu", **slices).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--topology={topology} must be a slice that libtpu knows: {reason}") from None


ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}
"""For libtpu without a TPU: it asks no metadata server what this machine is, stands beside others, and logs nothing.
The type that it is told is not what it compiles for, which `topology_name` says.
"""


def must_have_libtpu(topology: Topology) -> None:
    """Raises ValueError unless the libtpu is installed that this JAX names."""
    needs = f"--topology={topology} needs libtpu, JAX's compiler for TPUs"
    wanted = next(line for line in importlib.metadata.requires("jax") if line.startswith("libtpu"))
    wanted = wanted.split(";")[0].strip()
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"{needs}: it is not installed, pip install 'arch-jax[plan]' or '{wanted}' installs it")
    version = importlib.metadata.version("libtpu")
    if not f"{version}.".startswith(wanted.split("==")[-1].removesuffix("*")):
        raise ValueError(f"{needs}: libtpu=={version} must be {wanted} with jax=={jax.__version__}")


def versions(topology: Topology) -> dict[str, str]:
    """Of JAX, jaxlib and, where it compiles for the topology, libtpu."""
    names = ("jax", "jaxlib", *(["libtpu"] if topology.chip.is_tpu else []))
    return {name: importlib.metadata.version(name) for name in names}
