"""The collectives in the text of a compiled program.

On TPUs a reduce-scatter is a computation of that name around an all-reduce and a slice, and a collective that runs
beside other work stands in several fusions, which are one chain. Here the body of a loop counts once;
`arch.plan.program.count` counts its trips.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from arch.plan.program import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "ragged-all-to-all", "all-to-all", "collective-permute")

_TRANSFER = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}.*_xla_megascale_transfer_type="(\w+)"')
"""Of a message between slices, which XLA hands to the hosts: the slices, and what kind it is."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of them.

    Attributes:
      kind: of KINDS.
      shapes: of its results, of a reduce-scatter of what it sums.
      size: bytes of these.
      members: the devices of the first group that takes part, or the first two that permute, by their places in the
        mesh, counted along its last axis first.
      slices: how many slices of TPUs take part; 1 where it stays in one.
      path: of the operation in the model.
      chain: what all instructions of it have in common: its name, or the number of its chain.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    size: int
    members: tuple[int, ...]
    path: str
    chain: str
    slices: int = 1

    @property
    def group(self) -> int:
        """Devices, or slices, that take part."""
        if self.slices > 1:
            return self.slices
        return 1 if self.kind == "collective-permute" else max(1, len(self.members))

    @property
    def received(self) -> float:
        """Bytes that a device receives; of a ragged one if its places are full."""
        if self.kind == "collective-permute":
            return self.size
        return (2 if self.kind == "all-reduce" else 1) * self.size * (self.group - 1) / self.group


def of(name: str, computation: hlo.Computation, instruction: hlo.Instruction) -> Collective | None:
    """The collective that an instruction of the computation with this name begins; None if it begins none."""
    if instruction.opcode == "recv" and (transfer := _TRANSFER.search(instruction.text)):
        kind, array = transfer[2].lower().replace("_", "-"), instruction.results[0]
        slices, kind = _count(transfer[1]), kind if kind in KINDS else "collective-permute"
        return Collective(kind, (array.dims,), array.size, (), instruction.path, instruction.name, slices)
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = instruction.results
    if instruction.opcode == "reduce-scatter":
        arrays = [array for results in computation.read(instruction) for array in results]
    elif instruction.opcode.endswith("-start") and len(arrays) > 1:  # operands, results, and perhaps a context
        arrays = arrays[len(instruction.operands) : 2 * len(instruction.operands)]
    if name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    chain = re.search(r'chain_id="(\d+)"', instruction.text)
    shapes, size = tuple(array.dims for array in arrays), sum(array.size for array in arrays)
    path = instruction.path
    return Collective(kind, shapes, size, _members(instruction.text), path, chain[1] if chain else instruction.name)


def found(text: str) -> list[Collective]:
    """All of a program's text, each once."""
    out = {}
    for name, computation in hlo.parse(text).computations.items():
        for instruction in computation.values():
            if one := of(name, computation, instruction):
                out[one.kind, one.chain] = one
    return list(out.values())


def axes_of(members: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh of these sizes along which its members differ: those that a message between them crosses."""
    places = np.unravel_index(np.asarray(members, int), tuple(sizes.values()))
    return tuple(name for name, place in zip(sizes, places, strict=True) if len(set(place.tolist())) > 1)


def _members(line: str) -> tuple[int, ...]:
    """The first group, from any of the three ways of writing groups; of a permutation the first pair."""
    if axes := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        inside = re.findall(r"'(\w+)'", axes[2])
        numbers = np.arange(np.prod(list(sizes.values()))).reshape(tuple(sizes.values()))
        return tuple(numbers[tuple(slice(None) if name in inside else 0 for name in sizes)].ravel().tolist())
    if grid := re.search(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        dims = tuple(map(int, grid[2].split(",")))
        order = tuple(map(int, grid[3].split(","))) if grid[3] else tuple(range(len(dims)))
        return tuple(np.arange(np.prod(dims)).reshape(dims).transpose(order).ravel()[: int(grid[1])].tolist())
    first = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}", line)
    return tuple(map(int, first[1].split(","))) if first else ()


def _count(numbers: str) -> int:
    """How many numbers `1,2` or `1:4` are."""
    ends = [[*map(int, part.split(":"))] for part in numbers.split(",")]
    return sum(end[-1] - end[0] + 1 for end in ends)


def summary(text: str) -> dict[str, dict]:
    """Of each kind how many there are, MiB of their results together, and the largest one's shape."""
    some = found(text)
    out = {}
    for kind in KINDS:
        if of_kind := [collective for collective in some if collective.kind == kind]:
            largest = max(of_kind, key=lambda collective: collective.size)
            total = sum(collective.size for collective in of_kind) / 2**20
            out[kind] = dict(count=len(of_kind), mib=round(total, 1), largest=largest.shapes[0])
    return out
