"""How long a program takes a chip at least, from what each of its operations takes.

    seconds >= max(sum over operations of max(products / peak, bytes / bandwidth), all bytes / bandwidth,
                   received bytes / links, bytes received from other slices / what is between them)

Williams et al., Roofline, 2009, doi 10.1145/1498765.1498785; the terms of the links as in Pope et al., 2022, arXiv
2211.05102. Bytes are those of the main memory: what XLA keeps close to the processor is free. Messages and prefetches
run beside the rest, so they are in the later terms alone; arithmetic other than products is left out. All links of a
chip are taken as busy together, and no message as waiting: it is a bound, not a forecast.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from arch.plan.program import collectives, count

TERMS = {
    "work_s": "the chip's own work",
    "memory_s": "memory bandwidth",
    "links_s": "links",
    "between_s": "the network",
}
"""What a step waits for, by the term that is its time."""


def seconds(
    ops: Iterable[count.Op],
    *,
    peak: float,
    memory: float,
    links: float,
    between: float = 0.0,
    outside: Callable[[count.Op], bool] = lambda op: False,
) -> dict[str, float]:
    """Of operations one behind the other, of all traffic with the main memory, of the links, and of the step.

    Args:
      ops: of a device.
      peak: FLOP/s of its products.
      memory: bytes/s of its main memory.
      links: bytes/s that it receives from its slice.
      between: bytes/s that it receives from other slices, if there are some: then `between_s` is among the terms.
      outside: whether a message comes from there.
    """
    ops = list(ops)
    far = lambda op: (op.memory - op.near) / memory
    work = sum(max(op.products / peak, far(op)) for op in ops if not op.aside)
    inside = sum(op.received for op in ops if not outside(op))
    terms = dict(work_s=work, memory_s=sum(map(far, ops)), links_s=inside / links)
    if between:
        terms["between_s"] = sum(op.received for op in ops if outside(op)) / between
    return terms | dict(step_s=max(terms.values()))


def bound(terms: Mapping[str, float], ops: Iterable[count.Op], *, peak: float, memory: float) -> str:
    """What the step waits for, in words; of the chip's own work, whether products or memory take more of it."""
    name = max((term for term in TERMS if term in terms), key=terms.get)
    if name != "work_s":
        return TERMS[name]
    waiting = [op for op in ops if not op.aside]
    products = sum(op.products / peak for op in waiting if op.products / peak >= (op.memory - op.near) / memory)
    return "matrix products" if products >= terms["work_s"] / 2 else "memory bandwidth"


def messages(ops: Iterable[count.Op], sizes: Mapping[str, int], slices: int) -> list[dict]:
    """Collectives by kind and axes: how many a step has, bytes that a device receives, and over what.

    Args:
      ops: of a device.
      sizes: of the mesh's axes.
      slices: into how many the first axis is cut.
    """
    rows: dict[tuple, dict] = {}
    for op in ops:
        if op.kind in collectives.KINDS:
            axes = tuple(sizes)[:1] if op.slices > 1 else collectives.axes_of(op.members, sizes) if op.members else ()
            link = "between slices" if crosses(op, sizes, slices) else "links"
            row = rows.setdefault((op.kind, axes), dict(kind=op.kind, axes=list(axes), link=link, count=0, received=0))
            row["count"] += op.trips
            row["received"] += op.received
    return sorted(rows.values(), key=lambda row: -row["received"])


def buffer(op: count.Op) -> float:
    """Bytes of the results of a message, of which a device receives all but its own part; of an all-reduce twice."""
    members = op.slices if op.slices > 1 else len(op.members)
    if op.kind == "collective-permute" or members < 2:
        return op.received / op.trips
    return op.received / op.trips * members / (members - 1) / (2 if op.kind == "all-reduce" else 1)


def crosses(op: count.Op, sizes: Mapping[str, int], slices: int) -> bool:
    """Whether a message goes between slices, or its members are in several, each a stretch of the mesh's places."""
    whole = math.prod(sizes.values())
    return op.slices > 1 or len({member // (whole // slices) for member in op.members}) > 1
