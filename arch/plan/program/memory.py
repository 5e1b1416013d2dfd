"""Bytes that an operation of a compiled program reads and writes, by the memory they are in.

Operands and results count whole, with what their tiles leave empty, but for arrays of which only a part is touched:
what is sliced counts as the slice, what is updated in place as the update, rows that are looked up as these rows; also
inside a fusion, and what that keeps inside or hands on counts nothing. A kernel has what it declares
(`pl.CostEstimate`). So XLA's cost analysis has it, but in three places: there a row that is looked up, be it a single
number, counts as the tiles that it lies in, which a program that was read with `tiles` has too; a copy or slice that
begins and ends apart counts in both places; and each part of a collective in several fusions again.
"""

import dataclasses
import math
from collections import Counter

from arch.plan.program import collectives, flops, hlo

SLICES = ("slice", "dynamic-slice")


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
            out[arrays[0].space] += sum(_read(program, inner, parameter, counted))
        for array, size in zip(one.results, _written(program, inner, inner.root, counted), strict=True):
            out[array.space] += size
    elif one.opcode == "custom-call" and one.attribute("custom_call_target") in flops.HAND_ON:
        pass
    elif one.opcode == "custom-call" and (cost := flops.declared(one)) and not flops.ragged(one):
        out[0] += int(cost["bytes_accessed"])
    elif flops.ragged(one):
        some = [array for arrays in (one.results, *read) for array in arrays]
        for array in some:
            out[array.space] += array.held * (filled if len(array.dims) == 2 else 1)  # [rows d]; weights are [e d d]
    elif one.opcode == "ragged-all-to-all":
        some = [one.results[0], read[0][0]]
        for array in some:
            out[array.space] += min(array.held, filled * max(array.held for array in some))
    elif one.opcode == "copy-start":
        out += _moved(one.results[:2])
    elif one.opcode in ("slice-start", *SLICES):
        part = one.results[len(read) if one.opcode == "slice-start" else 0]
        out += _moved([part, *(array for arrays in read[1:] for array in arrays)])
        out[read[0][0].space] += part.held
    elif one.opcode == "dynamic-update-slice":
        out += _moved([*read[1], *read[1]])
    elif one.opcode == "gather":
        out += _moved([*one.results, *read[1]])
        out[read[0][0].space] += _gathered(computation, one)
    elif one.opcode == "scatter":
        out += _moved([array for arrays in read[len(one.results) :] for array in arrays])
        for array, size in zip(one.results, _scattered(computation, one), strict=True):
            out[array.space] += 2 * size
    else:
        results = one.results[len(read) : 2 * len(read)] if one.opcode.endswith("-start") else one.results
        out += _moved([*results, *(array for arrays in read for array in arrays)])
    return out


def _moved(arrays) -> Counter:
    out = Counter()
    for array in arrays:
        out[array.space] += array.held
    return out


def _looked_up(array, sizes, places) -> int:
    """Bytes of slices of these sizes, of which there are as many as the entries of `places` make."""
    if not array.whole:
        return array.size * places.entries // array.entries
    return array.size * array.in_tiles(sizes) * places.in_tiles(places.dims) // (array.entries * math.prod(sizes))


def _gathered(computation, one) -> int:
    """Bytes that a gather reads of the array in which it looks up, in the dtype of what it gives."""
    (result,), (array,) = one.results, computation[one.operands[0]].results
    return _looked_up(dataclasses.replace(array, dtype=result.dtype), one.dims("slice_sizes"), result)


def _scattered(computation, one) -> list[int]:
    """Bytes that a scatter reads, and writes, of each array."""
    out, inserted, read = [], one.dims("inserted_window_dims"), computation.read(one)
    for into, (update,) in zip(one.results, read[len(one.results) + 1 :], strict=True):
        window = iter(update.dims[axis] for axis in one.dims("update_window_dims"))
        sizes = tuple(1 if axis in inserted else next(window) for axis in range(len(into.dims)))
        out.append(_looked_up(into, sizes, update))
    return out


def _read(program, inner, name, counted) -> tuple[int, int]:
    """Bytes of a value that are read inside a fusion: (at most all of it, tiles for each row looked up)."""
    whole = sum(array.held for array in inner[name].results)
    uses = [_used(program, inner, name, user, whole, counted) for user in inner.users[name]]
    return min(whole, sum(plain for plain, _ in uses)), sum(tiles for _, tiles in uses)


def _used(program, inner, name, user, whole, counted) -> tuple[int, int]:
    """The same, by one of those who read it."""
    first = user.operands[0] == name
    if user.name in counted or user.opcode == "tuple" or user.attribute("custom_call_target") in flops.HAND_ON:
        return 0, 0
    if user.opcode == "dynamic-update-slice" and first:
        return 0, 0
    if user.opcode == "scatter" and name in user.operands[: len(user.results)]:
        return 0, _scattered(inner, user)[user.operands.index(name)]
    if user.opcode == "gather" and first:
        return 0, _gathered(inner, user)
    if user.opcode in SLICES and first:
        return user.results[0].held, 0
    if user.opcode == "bitcast":
        return _read(program, inner, user.name, counted)
    if user.opcode == "fusion":
        nested = program.computations[user.attribute("calls")]
        given = [part for part, operand in zip(nested.parameters, user.operands, strict=True) if operand == name]
        uses = [_read(program, nested, part, counted) for part in given]
        uses += [_read(program, inner, user.name, counted) for part in given if _leaves(nested, part)]
        return sum(plain for plain, _ in uses), sum(tiles for _, tiles in uses)
    return whole, 0


def _leaves(computation, name) -> bool:
    """Whether a value is, perhaps by another name, the result of its computation."""
    names = (user.name for user in computation.users[name] if user.opcode == "bitcast")
    return name == computation.root.name or any(_leaves(computation, each) for each in names)


def _written(program, inner, one, counted) -> list[int]:
    """Bytes of each result that a fusion with this root writes."""
    if one.opcode == "tuple":
        return [size for name in one.operands for size in _written(program, inner, inner[name], counted)]
    if one.opcode == "bitcast":
        return _written(program, inner, inner[one.operands[0]], counted)
    if one.opcode == "fusion":
        nested = program.computations[one.attribute("calls")]
        made = {part for part, name in zip(nested.parameters, one.operands, strict=True) if not _given(inner, name)}
        into = nested.root.operands[0] if nested.root.opcode == "scatter" else ""
        if into in made:  # no rows are read, all are written
            return [array.held for array in one.results]
        return _written(program, nested, nested.root, counted)
    if one.opcode == "dynamic-update-slice":
        return [inner[one.operands[1]].results[0].held]
    if one.opcode == "scatter" and _given(inner, one.operands[0]):
        return _scattered(inner, one)
    if one.attribute("custom_call_target") in flops.HAND_ON:
        made = [inner[name] for name in one.operands if name not in counted and inner[name].opcode in collectives.KINDS]
        shapes = [(array.dtype, array.dims) for message in made for array in message.results]
        return [array.held if (array.dtype, array.dims) in shapes else 0 for array in one.results]
    handed_on = one.opcode == "parameter" or one.name in counted
    return [0 if handed_on else array.held for array in one.results]


def _given(inner, name) -> bool:
    """Whether a value comes from outside of its fusion, perhaps under another name."""
    while inner[name].opcode == "bitcast":
        name = inner[name].operands[0]
    return inner[name].opcode == "parameter"
