"""FLOPs of an operation of a compiled program: of its matrix products, and of all other arithmetic.

    dot [b m k] [b k n]: 2 b m n k        convolution: 2 for each weight that meets an entry, so none in the padding

A kernel has what it declares: `pl.CostEstimate`, and libtpu's own for a ragged dot; or what `arch.kernels.cost` tells
of it. The rules are those of XLA's HloCostAnalysis, but for transcendental functions, which are arithmetic as any other
here.
"""

import math
import re

import numpy as np

from arch.kernels import cost
from arch.plan.program import hlo

ELEMENTWISE = set(
    "add subtract multiply divide maximum minimum negate abs exponential exponential-minus-one log log-plus-one power "
    "sqrt rsqrt cbrt tanh sine cosine tan logistic erf floor ceil round-nearest-even round-nearest-afz sign compare "
    "and or xor not select clamp remainder atan2 is-finite convert shift-left shift-right-logical "
    "shift-right-arithmetic".split()
)
UNKNOWN = ("ragged-dot", "scaled-dot", "cholesky", "triangular-solve", "fft")
HAND_ON = ("AsyncCollectiveStart", "AsyncCollectiveDone", "ConcatBitcast", "AssumeGatherIndicesInBound")
"""Custom calls that only give a buffer another name."""
FREE_CALLS = (*HAND_ON, "AllocateBuffer", "GatherScatterIndicesBitpacked", "SliceId", "TopK", "ZeroCrop")


def of(program: hlo.Program, computation: hlo.Computation, one: hlo.Instruction) -> tuple[float, float]:
    """(of matrix products, of other arithmetic). Raises ValueError for what is not known."""
    if one.opcode == "fusion":
        inner = program.computations[one.attribute("calls")]
        each = [of(program, inner, part) for part in inner.values()]
        return sum(products for products, _ in each), sum(rest for _, rest in each)
    if one.opcode in ELEMENTWISE:
        return 0, one.results[0].entries
    if one.opcode in ("reduce", "reduce-window"):
        return 0, _summed(computation, one)
    if one.opcode == "dot":
        (left,), _ = computation.read(one)
        return 2 * one.results[0].entries * math.prod(left.dims[axis] for axis in one.dims("lhs_contracting_dims")), 0
    if one.opcode == "convolution":
        return _convolution(computation, one), 0
    if one.opcode == "custom-call":
        return _declared_flops(one)
    if one.opcode in UNKNOWN:
        raise ValueError(f"{one.opcode}={one.name} must be an operation whose FLOPs are known")
    return 0, 0


def _summed(computation, one):
    if one.opcode == "reduce-window":
        return one.results[0].entries * (math.prod(map(int, _window(one).get("size", "1").split("x"))) - 1)
    arrays = computation.read(one)
    return arrays[0][0].entries - one.results[0].entries


def declared(one: hlo.Instruction) -> dict[str, float]:
    """What a kernel says that it costs: `flops`, `transcendentals`, `bytes_accessed`; {} where it does not say."""
    found = re.search(r'"cost_estimate":\{([^}]*)\}', one.text)
    if not found:
        return cost.of(one.name, one.path)
    return {name: float(value) for name, value in re.findall(r'"(\w+)":"?(-?[\d.e+]+)', found[1])}


def ragged(one: hlo.Instruction) -> bool:
    """Whether this is libtpu's kernel for a ragged dot."""
    return one.name.startswith("ragged-dot") and bool(declared(one))


def _declared_flops(one):
    if one.attribute("custom_call_target") in FREE_CALLS or one.name.startswith("ragged-dot-metadata"):
        return 0, 0
    costs = declared(one)
    if not costs:
        raise ValueError(f"custom-call={one.name} ({one.attribute('custom_call_target')}) must declare its cost")
    return costs.get("flops", 0), costs.get("transcendentals", 0)


def _convolution(computation, one):
    """2 * batch * output features * input features of a group * pairs of (output, weight) that meet an entry."""
    (left,), (right,) = computation.read(one)
    into, kernel, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.text).groups()
    groups = [int((one.dims(name) or (1,))[0]) for name in ("feature_group_count", "batch_group_count")]
    size = {label: left.dims[into.index(label)] for label in into}
    pairs, window = 1, _window(one)
    for axis, label in enumerate(sorted(set(into) - {"b", "f"})):
        entries, weights = size[label], right.dims[kernel.index(label)]
        places = one.results[0].dims[out.index(label)]
        numbers = {name: [*map(int, text.split("x"))][axis] for name, text in window.items() if name in DILATION}
        low = int(window["pad"].split("x")[axis].split("_")[0]) if "pad" in window else 0
        stride, grown, spread = (numbers.get(name, 1) for name in DILATION)
        met = np.arange(places)[:, None] * stride - low + np.arange(weights) * spread
        pairs *= int(np.sum((met >= 0) & (met < (entries - 1) * grown + 1) & (met % grown == 0)))
    features = right.dims[kernel.index("i")] * right.dims[kernel.index("o")]
    return 2 * size["b"] // groups[1] * features * pairs


DILATION = ("stride", "lhs_dilate", "rhs_dilate")


def _window(one):
    """Its entries: `size=2x1 pad=0_0x3_3` as a dictionary."""
    return dict(part.split("=") for part in one.attribute("window").split())
