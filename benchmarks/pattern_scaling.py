"""Attention on CPU over the blocks of each kind of pattern, against the length: forward and backward in float32.

    python -m benchmarks.pattern_scaling [FORM ...]

FORM is one of FORMS; all without one. Each is kept by itself in benchmarks/results/pattern_scaling-cpu.json: time,
temporaries and the shares of all pairs that are visible and visited (in blocks of 64 x 64 that are not empty), with
exponents fitted from 8k tokens on. A time is the least of two runs or more. Of `LINEAR` a token sees so many others
whatever the length; of `ROOT` as many as some square root of it, far apart, so that blocks of 64 tokens hold more of
all pairs than the pattern does: the saving is that of the column `visited`. Strides are powers of two, so that time
grows in steps. Longformer and BigBird have a benchmark of their own, `benchmarks/attention_scaling.py`.
"""

import sys

from arch.ops.patterns import axial, block_diagonal, block_local, causal, fixed, random_blocks, strided, window
from arch.train import huge_pages
from benchmarks import measure
from benchmarks.attention_scaling import FITTED, HEAD_DIM, HEADS, over_blocks
from benchmarks.turns import alone, exponent

BLOCK = (64, 64)
LINEAR = {
    "window": causal & window(512),
    "dilated": causal & window(256, dilation=2),
    "block_local": block_local(256),
    "block_diagonal": block_diagonal(512),
    "random": random_blocks(8, seed=0, size=64),
}
"""Patterns that are the same at all lengths."""
ROOT = {
    "strided": strided,
    "fixed": lambda stride: fixed(stride, summaries=8),
    "axial": lambda stride: axial(stride, stride),
}
"""Patterns of a stride: axial's grid is square, so that its lengths are powers of four."""
FORMS = (*LINEAR, *ROOT)
LONGEST = {"linear": 17, "root": 15, "axial": 14}
"""Up to two to this power; from 1024 on."""


def patterns(form: str) -> dict:
    """The pattern for each length."""
    if form in LINEAR:
        return {1 << power: LINEAR[form] for power in range(10, LONGEST["linear"] + 1)}
    powers = range(10, LONGEST["axial"] + 1, 2) if form == "axial" else range(10, LONGEST["root"] + 1)
    return {1 << power: ROOT[form](1 << (power + 1) // 2) for power in powers}


def scaling(form: str) -> dict:
    """A row for each length, and the exponents where three are long enough."""
    rows = []
    for length, pattern in patterns(form).items():
        rows.append({"length": length} | alone(over_blocks(pattern, BLOCK, length, HEADS), fewest=2))
        print(form, rows[-1], flush=True)
    far = [line for line in rows if line["length"] >= FITTED]
    kinds = {"time": "least_ms", "temporaries": "temporary_mib"} if len(far) > 2 else {}
    return {"exponents": {name: exponent(far, key) for name, key in kinds.items()}, "rows": rows}


if __name__ == "__main__":
    huge_pages.ask()
    about = {"heads": HEADS, "head_dim": HEAD_DIM, "dtype": "float32", "device": measure.device()}
    for name in sys.argv[1:] or FORMS:
        measure.add("pattern_scaling", (name,), about | scaling(name), platform="cpu")
