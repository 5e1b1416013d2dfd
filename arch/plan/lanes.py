"""Which arrays of a traced program lie in a TPU's memory as its kernels ask: their last axis along the lanes of tiles.

A kernel's operands and results lie as they are written, the last axis along the 128 lanes, however short it is: heads
of 64 channels fill half of what they take. XLA lays what such an array is made of, and what is made of it, the same
way, up to the next product, sum or merged axis; any other array as it fills its tiles best. So libtpu's log of buffers
has it of the steps that `benchmarks/closed_form.py` calls FITTED.
"""

from collections.abc import Callable
from typing import Any

from arch.plan import tiles

BREAKS = ("dot", "conv_", "ragged", "reduce", "arg", "cum", "gather", "scatter", "sort", "iota", "random", "dynamic")
"""Operations, by the beginning of their names, whose results do not lie as their operands."""


def times(jaxpr: Any) -> Callable[[Any], float]:
    """How many times its own bytes a variable of a traced program takes for the sake of kernels."""
    lies = along(jaxpr)
    size = lambda shape: -(-shape[-1] // tiles.LANES) * tiles.LANES / shape[-1]
    return lambda var: size(var.aval.shape) if _wide(var) and lies(var) else 1


def along(jaxpr: Any) -> Callable[[Any], bool]:
    """Whether a variable of a traced program lies with its last axis along the lanes, for the sake of kernels."""
    above, of_kernels = {}, []

    def root(var):
        while id(var) in above:
            var = above[id(var)]
        return var

    def tie(one, other):
        one, other = root(one), root(other)
        if one is not other:
            above[id(one)] = other

    def visit(jaxpr):
        for operation in jaxpr.eqns:
            given, made = operation.invars, operation.outvars
            if operation.primitive.name == "pallas_call":
                of_kernels.extend((*given, *made))
                continue
            for inner in _called(operation):
                visit(inner)
                for pair in zip((*given, *made), (*inner.invars, *inner.outvars), strict=True):
                    tie(*pair)
            if _keeps(operation):
                for var in filter(_wide, given):
                    tie(var, made[0])

    visit(jaxpr)
    roots = set(map(id, map(root, of_kernels)))
    return lambda var: id(root(var)) in roots


def _called(operation: Any) -> list[Any]:
    """The programs that an operation runs on all of its operands."""
    found = (getattr(value, "jaxpr", value) for value in operation.params.values())
    counts = lambda one: (len(one.invars), len(one.outvars))
    return [inner for inner in found if hasattr(inner, "eqns") and counts(inner) == counts(operation)]


def _keeps(operation: Any) -> bool:
    """Whether its first result has the last axis of its operands, some of it, or more."""
    name, made = operation.primitive.name, operation.outvars
    if not made or not _wide(made[0]) or _called(operation) or name.startswith(BREAKS):
        return False
    last = len(made[0].aval.shape) - 1
    if name == "transpose":
        return operation.params["permutation"][-1] == last
    if name == "broadcast_in_dim":
        return last in operation.params["broadcast_dimensions"]
    if name == "reshape":
        return operation.invars[0].aval.shape[-1:] == made[0].aval.shape[-1:]
    return True


def _wide(var: Any) -> bool:
    """Whether it is a matrix or more, with more than one number along its last axis."""
    shape = getattr(var.aval, "shape", ())
    return len(shape) > 1 and shape[-1] > 1
