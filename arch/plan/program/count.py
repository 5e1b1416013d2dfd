"""What a compiled program takes of each device, from its own text: every operation, times the trips of its loops.

    count = sum over operations of trips * (FLOPs, bytes read and written, bytes received)

XLA's `cost_analysis()` counts the body of a loop once; this does not. A conditional counts as its dearest branch, a
collective that stands in several fusions once. `benchmarks/roofline_check.py` compares with XLA's count.
"""

import dataclasses
from collections.abc import Callable, Iterator

from arch.plan.program import collectives, flops, hlo, loops, memory

Trips = Callable[[str], float]
FREE = set(
    "parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id opt-barrier domain "
    "add-dependency async-update".split()
)
"""They compute and move nothing; nor does what ends in `-done`."""


@dataclasses.dataclass(frozen=True)
class Op:
    """What one operation takes of a device, in all its trips.

    Attributes:
      kind: its opcode; of a message its kind.
      path: of the operation in the model.
      trips: how often it runs, a mean where that depends on data.
      products: FLOPs of matrix products.
      elementwise: FLOPs of other arithmetic.
      memory: bytes that it reads and writes.
      near: of these, the bytes in memories close to the processor.
      received: bytes that come from other devices.
      members, slices: of a message, the devices of its first group, and slices (see `collectives.Collective`).
      aside: whether it only moves, while others compute.
    """

    kind: str
    path: str
    trips: float
    products: float = 0
    elementwise: float = 0
    memory: float = 0
    near: float = 0
    received: float = 0
    members: tuple[int, ...] = ()
    slices: int = 1
    aside: bool = False


def ops(text: str, *, filled: float = 1.0, trips: Trips = lambda path: 0, tiles: bool = False) -> list[Op]:
    """All operations of a program.

    Args:
      text: of `compiled.as_text()`.
      filled: share of the places of ragged products and messages that hold rows. XLA knows places alone; how many rows
        there are at an even load of experts, a config tells.
      trips: how often a loop runs, by its path, where its end is found as the program runs; 0 for what is not known.
      tiles: whether a row that is looked up counts as the tiles it lies in, on TPUs eight rows, as XLA counts it: more
        than a chip must read.

    Raises:
      ValueError: where the trips of a loop, or the FLOPs of an operation, are not known.
    """
    program = hlo.parse(text, tiles=tiles)
    return list(_of(program, program.entry, 1, filled, trips))


def total(some: list[Op]) -> dict[str, float]:
    """The sums of all operations, and under `received_by` the bytes received by each kind of message."""
    fields = ("products", "elementwise", "memory", "near", "received")
    out = {field: sum(getattr(op, field) for op in some) for field in fields}
    kinds = {op.kind for op in some if op.received}
    return out | dict(received_by={kind: sum(op.received for op in some if op.kind == kind) for kind in sorted(kinds)})


def _of(program, name, trips, filled, unknown) -> Iterator[Op]:
    """Those of a computation that runs so often."""
    computation, chains = program.computations[name], set()
    for one in computation.values():
        if one.opcode in FREE or one.opcode.endswith("-done"):
            continue
        if one.opcode == "while":
            rounds = trips * loops.trips(program, computation, one, unknown=unknown(one.path))
            yield from _of(program, one.attribute("body"), rounds, filled, unknown)
        elif one.opcode == "conditional":
            yield from _dearest(list(_of(program, branch, trips, filled, unknown)) for branch in one.branches)
        elif one.opcode in ("call", "async-start"):
            inner = one.attribute("to_apply") or one.attribute("calls")
            yield from _of(program, inner, trips, filled, unknown)
        else:
            yield _op(program, name, one, trips, filled, chains)


def _dearest(branches):
    return max(branches, key=lambda some: (sum(op.products for op in some), sum(op.memory for op in some)))


def _op(program, name, one, trips, filled, chains) -> Op:
    """One operation; `chains` are those of the messages counted before, and grows."""
    computation = program.computations[name]
    messages = dict(_messages(program, name, one))
    counted = {part for part, message in messages.items() if (message.kind, message.chain) in chains}
    new = [message for part, message in messages.items() if part not in counted]
    chains |= {(message.kind, message.chain) for message in new}
    products, elementwise = flops.of(program, computation, one)
    products *= filled if flops.ragged(one) else 1
    bytes_in = memory.of(program, computation, one, counted=counted, filled=filled)
    received, kind = sum(message.received for message in new), new[0].kind if new else one.opcode
    if kind == "ragged-all-to-all":
        there, back = (arrays[0].entries for arrays in (one.results, computation.read(one)[0]))
        received *= min(1, filled * max(there, back) / there)
    aside = one.opcode in ("copy-start", "slice-start", "send", "recv") or (bool(new) and not products)
    return Op(
        kind=kind,
        path=one.path,
        trips=trips,
        products=trips * products,
        elementwise=trips * elementwise,
        memory=trips * bytes_in.total(),
        near=trips * (bytes_in.total() - bytes_in[0]),
        received=trips * received,
        members=new[0].members if new else (),
        slices=new[0].slices if new else 1,
        aside=aside,
    )


def _messages(program, name, one) -> Iterator[tuple[str, collectives.Collective]]:
    """(name, collective) for those that an instruction, or what it fuses, begins."""
    if one.opcode == "fusion":
        inner = one.attribute("calls")
        for part in program.computations[inner].values():
            yield from _messages(program, inner, part)
    elif found := collectives.of(name, program.computations[name], one):
        yield one.name, found
