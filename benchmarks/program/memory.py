"""Bytes that an operation of a compiled program reads and writes, by the memory they are in.

Operands and results count whole, but for arrays of which only a part is touched: what is sliced or gathered counts as
the slice, what is updated in place as the update, also inside a fusion; what a fusion keeps inside or hands on counts
nothing. A kernel has what it declares (`pl.CostEstimate`). The rules are those of XLA's HloCostAnalysis but in three
places: there, what a fusion gathers from counts whole, a copy or slice that begins and ends apart counts in both
places, and each part of a collective in several fusions counts again.
"""

from collections import Counter

from benchmarks.program import collectives, flops, hlo

SLICES = ("slice", "dynamic-slice", "gather")


def of(
    program: hlo.Program, computation: hlo.Computation, one: hlo.Instruction, *, counted: set[str], filled: float
) -> Counter:
    """Bytes in each memory, 0 the main one.

    Args:
      counted: names of instructions, inside a fusion, that were counted before: parts of a chain of collectives.
      filled: share of the places of a ragged operation that hold rows.
    """
    out, read = Counter(), computation.read(one)
    if one.opcode == "fusion":
        inner = program.computations[one.attribute("calls")]
        for parameter, arrays in zip(inner.parameters, read, strict=True):
            out[arrays[0].space] += _read(program, inner, parameter, counted)
        for array, size in zip(one.results, _written(program, inner, inner.root, counted), strict=True):
            out[array.space] += size
    elif one.opcode == "custom-call" and one.attribute("custom_call_target") in flops.HAND_ON:
        pass
    elif one.opcode == "custom-call" and (cost := flops.declared(one)) and not flops.ragged(one):
        out[0] += int(cost["bytes_accessed"])
    elif flops.ragged(one):
        some = [array for arrays in (one.results, *read) for array in arrays]
        for array in some:
            out[array.space] += array.size * (filled if len(array.dims) == 2 else 1)  # [rows d]; weights are [e d d]
    elif one.opcode == "ragged-all-to-all":
        some = [one.results[0], read[0][0]]
        for array in some:
            out[array.space] += min(array.size, filled * max(array.size for array in some))
    elif one.opcode == "copy-start":
        out += _moved(one.results[:2])
    elif one.opcode in ("slice-start", *SLICES):
        part = one.results[len(read) if one.opcode == "slice-start" else 0]
        out += _moved([part, *(array for arrays in read[1:] for array in arrays)])
        out[read[0][0].space] += part.size
    elif one.opcode == "dynamic-update-slice":
        out += _moved([*read[1], *read[1]])
    elif one.opcode == "scatter":
        half = len(read) // 2
        out += _moved([array for arrays in read[half:] for array in arrays])
        out += _moved([array for arrays in 2 * read[half + 1 :] for array in arrays])
    else:
        results = one.results[len(read) : 2 * len(read)] if one.opcode.endswith("-start") else one.results
        out += _moved([*results, *(array for arrays in read for array in arrays)])
    return out


def _moved(arrays) -> Counter:
    out = Counter()
    for array in arrays:
        out[array.space] += array.size
    return out


def _read(program, inner, name, counted) -> int:
    """Bytes of a value that those who use it inside a fusion read."""
    whole = sum(array.size for array in inner[name].results)
    return min(whole, sum(_used(program, inner, name, user, whole, counted) for user in inner.users[name]))


def _used(program, inner, name, user, whole, counted) -> int:
    first = user.operands[0] == name
    if user.name in counted or user.opcode == "tuple" or user.attribute("custom_call_target") in flops.HAND_ON:
        return 0
    if user.opcode in ("dynamic-update-slice", "scatter") and first:
        return 0
    if user.opcode in SLICES and first:
        return user.results[0].size
    if user.opcode == "bitcast":
        return _read(program, inner, user.name, counted)
    if user.opcode == "fusion":
        nested = program.computations[user.attribute("calls")]
        given = [part for part, operand in zip(nested.parameters, user.operands, strict=True) if operand == name]
        return sum(_read(program, nested, part, counted) for part in given)
    return whole


def _written(program, inner, one, counted) -> list[int]:
    """Bytes of each result that a fusion with this root writes."""
    if one.opcode == "tuple":
        return [size for name in one.operands for size in _written(program, inner, inner[name], counted)]
    if one.opcode == "bitcast":
        return _written(program, inner, inner[one.operands[0]], counted)
    if one.opcode == "fusion":
        nested = program.computations[one.attribute("calls")]
        return _written(program, nested, nested.root, counted)
    if one.opcode == "dynamic-update-slice":
        return [inner[one.operands[1]].results[0].size]
    if one.opcode == "scatter":
        half = len(one.operands) // 2
        return [2 * inner[name].results[0].size for name in one.operands[half + 1 :]]
    if one.attribute("custom_call_target") in flops.HAND_ON:
        made = [inner[name] for name in one.operands if name not in counted and inner[name].opcode in collectives.KINDS]
        shapes = [(array.dtype, array.dims) for message in made for array in message.results]
        return [array.size if (array.dtype, array.dims) in shapes else 0 for array in one.results]
    handed_on = one.opcode == "parameter" or one.name in counted
    return [0 if handed_on else array.size for array in one.results]
