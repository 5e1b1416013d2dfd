"""The collectives in the text of a program that XLA compiled for TPUs.

There a reduce-scatter is a computation of that name around an all-reduce and a slice, and a collective that runs beside
other work stands in several fusions, which are one chain. The body of a scan counts once.
"""

import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "ragged-all-to-all", "all-to-all", "collective-permute")
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "f16": 2}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_COLLECTIVE = re.compile(rf"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ({'|'.join(KINDS)})(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of them.

    Attributes:
      kind: of KINDS.
      shapes: of its results, of a reduce-scatter before the slice.
      size: bytes of these.
      group: devices that take part.
      path: of the operation in the model.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    size: int
    group: int
    path: str

    @property
    def received(self) -> float:
        """Bytes that a device receives; of a ragged one if its places are full."""
        return (2 if self.kind == "all-reduce" else 1) * self.size * (self.group - 1) / self.group


def found(text: str) -> list[Collective]:
    """All of a program's text."""
    out, inside = {}, ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            inside = start[1]
        elif match := _COLLECTIVE.match(line):
            kind = "reduce-scatter" if inside.startswith("all-reduce-scatter") else match[3]
            chain = re.search(r'chain_id="(\d+)"', line)
            arrays = [(name, _dims(dims)) for name, dims in re.findall(r"(\w+)\[([\d,]*)\]", match[2])]
            size = sum(BYTES[name] * math.prod(dims) for name, dims in arrays)
            path = re.search(r'op_name="([^"]*)"', line)
            shapes = tuple(dims for _, dims in arrays)
            key = (kind, chain[1]) if chain else match[1]
            out[key] = Collective(kind, shapes, size, _group(line), path[1] if path else "")
    return list(out.values())


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


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
    out = {}
    for kind in KINDS:
        if some := [collective for collective in found(text) if collective.kind == kind]:
            largest = max(some, key=lambda collective: collective.size)
            total = sum(collective.size for collective in some) / 2**20
            out[kind] = dict(count=len(some), mib=round(total, 1), largest=largest.shapes[0])
    return out
