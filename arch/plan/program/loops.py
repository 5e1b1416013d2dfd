"""How often a loop of a compiled program runs: as XLA notes, else as its condition, start and step say.

    start = 4, counter < 16, counter + 3: ceil((16 - 4) / 3) = 4 trips

XLA for CPUs and GPUs writes `known_trip_count` beside the loop, XLA for TPUs does not.
"""

import re

from arch.plan.program import hlo

_SAME = ("copy", "copy-start", "copy-done", "bitcast", "reshape", "convert")
"""Operations that hand a counter on."""


def trips(program: hlo.Program, computation: hlo.Computation, loop: hlo.Instruction, *, unknown: float = 0) -> float:
    """Of a `while` in this computation; `unknown` where it is no count from a constant to a constant.

    Raises:
      ValueError: it is none, and unknown is 0.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(known[1])
    condition, body = (program.computations[loop.attribute(part)] for part in ("condition", "body"))
    test, sides = _operation(program, condition, condition.root.name)
    counter, limit = sides if len(sides) == 2 else (test, test)
    if test.opcode == "compare" and test.attribute("direction") == "LT" and counter.opcode == "get-tuple-element":
        index = int(counter.attribute("index"))
        begin, _ = _operation(program, computation, loop.operands[0])
        start, _ = _operation(program, computation, begin.operands[index]) if begin.opcode == "tuple" else (begin, ())
        change, added = _operation(program, body, body.root.operands[index])
        step = next((one for one in added if one.opcode == "constant"), change)
        if change.opcode == "add" and {start.opcode, step.opcode, limit.opcode} == {"constant"}:
            return max(0, -(-(int(limit.inside) - int(start.inside)) // int(step.inside)))
    if unknown:
        return unknown
    raise ValueError(f"while={loop.name} must count by a constant step from one constant to another")


def _operation(program, computation, name):
    """(instruction that computes this value, those of its operands); of a fusion, the operation that it holds."""
    one = _source(computation, name)
    if one.opcode != "fusion":
        return one, [_source(computation, operand) for operand in one.operands]
    inner = program.computations[one.attribute("calls")]
    given = dict(zip(inner.parameters, one.operands, strict=True))
    root = _source(inner, inner.root.name)
    sides = [_source(inner, operand) for operand in root.operands]
    return root, [_source(computation, given[side.name]) if side.name in given else side for side in sides]


def _source(computation, name):
    while computation[name].opcode in _SAME:
        name = computation[name].operands[0]
    return computation[name]
