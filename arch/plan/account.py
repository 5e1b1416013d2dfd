"""What one compiled program needs of each device, and how long it takes at least: as data."""

import re
from typing import Any

import jax

from arch.plan import loads, roofline
from arch.plan.lowering import Run
from arch.plan.program import count
from arch.plan.topology import Topology


def of(program: jax.stages.Lowered, run: Run, topology: Topology, *, length: int) -> dict[str, Any]:
    """Compiles a program and accounts for it.

    Args:
      program: of the run, lowered on the topology's mesh.
      run: of which it is.
      topology: of the devices.
      length: tokens of a row that its attention works through, 1 of a step of decoding.

    Returns:
      `memory`, bytes of a device: `arguments`, the `heap` in which all temporaries find room (told from JAX 0.11 on),
      the `peak` of all that is held at a time, near the arithmetic too, `code`; and, where the compiler found room and
      the program could be counted, `flops`, `elementwise_flops`, `bytes`, `received` of a device, `collective_buffer`,
      the bytes of the largest collective's results, `collectives`, `seconds`, `bound`. Else `refused`, the compiler's
      reason; or `uncounted`, why there is no count.
    """
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return dict(refused=str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: "))
    out = dict(memory=memory(compiled.memory_analysis()))
    try:
        return out | counted(compiled.as_text(), run, topology, length=length)
    except ValueError as error:
        return out | dict(uncounted=str(error))


def memory(sizes: Any) -> dict[str, int]:
    """Of what XLA tells. Its `temp_size_in_bytes` is not what is taken of a TPU: it may be more than the chip has."""
    out = dict(arguments=sizes.argument_size_in_bytes, peak=sizes.peak_memory_in_bytes)
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if hasattr(sizes, "total_allocation_bytes"):
        out["heap"] = sizes.total_allocation_bytes - sizes.argument_size_in_bytes - results
    return out | dict(code=sizes.generated_code_size_in_bytes)


def wanted(refused: str) -> float:
    """The bytes that the compiler says a program needs, where it refuses it: the first size that it names."""
    found = re.search(r"([\d.]+)([KMGT])\b", refused)
    return float(found[1]) * 2 ** (10 * (1 + "KMGT".index(found[2]))) if found else 0.0


def counted(text: str, run: Run, topology: Topology, *, length: int) -> dict[str, Any]:
    """What a program takes by its text. Raises ValueError where a loop or an operation is not known."""
    chip, sizes = topology.chip, dict(run.mesh.shape)
    share, rounds = loads.even_load(run.cfg.model, sizes["expert"])
    ops = count.ops(text, filled=share, trips=loads.trips(run.cfg.model, length, rounds))
    rates = dict(peak=chip.peak, memory=chip.memory)
    outside = lambda op: roofline.crosses(op, sizes, topology.slices)
    terms = roofline.seconds(
        ops, **rates, links=chip.links, between=chip.between if topology.slices > 1 else 0.0, outside=outside
    )
    total = count.total(ops)
    messages = [op for op in ops if op.received and op.trips]
    return dict(
        flops=total["products"],
        elementwise_flops=total["elementwise"],
        bytes=total["memory"] - total["near"],
        received=total["received"],
        collective_buffer=max(map(roofline.buffer, messages), default=0.0),
        collectives=roofline.messages(ops, sizes, topology.slices),
        seconds=terms,
        bound=roofline.bound(terms, ops, **rates),
    )
