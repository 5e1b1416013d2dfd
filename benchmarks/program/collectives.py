"""The collectives in the text of a compiled program.

On TPUs a reduce-scatter is a computation of that name around an all-reduce and a slice, and a collective that runs
beside other work stands in several fusions, which are one chain. Here the body of a loop counts once;
`benchmarks/program/count.py` counts its trips.
"""

import dataclasses
import math
import re

from benchmarks.program import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "ragged-all-to-all", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of them.

    Attributes:
      kind: of KINDS.
      shapes: of its results, of a reduce-scatter of what it sums.
      size: bytes of these.
      group: devices that take part.
      path: of the operation in the model.
      chain: what all instructions of it have in common: its name, or the number of its chain.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    size: int
    group: int
    path: str
    chain: str

    @property
    def received(self) -> float:
        """Bytes that a device receives; of a ragged one if its places are full."""
        if self.kind == "collective-permute":
            return self.size
        return (2 if self.kind == "all-reduce" else 1) * self.size * (self.group - 1) / self.group


def of(name: str, computation: hlo.Computation, instruction: hlo.Instruction) -> Collective | None:
    """The collective that an instruction of the computation with this name begins; None if it begins none."""
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
    return Collective(kind, shapes, size, _group(instruction.text), path, chain[1] if chain else instruction.name)


def found(text: str) -> list[Collective]:
    """All of a program's text, each once."""
    out = {}
    for name, computation in hlo.parse(text).computations.items():
        for instruction in computation.values():
            if one := of(name, computation, instruction):
                out[one.kind, one.chain] = one
    return list(out.values())


def _group(line: str) -> int:
    """How many devices are in each group, from any of the three ways of writing groups."""
    if axes := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
    if grid := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(grid[1])
    first = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(first[1].split(",")) if first else 1


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
