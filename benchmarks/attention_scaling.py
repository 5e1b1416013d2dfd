"""Attention on CPU against the length, forward and backward in float32: what patterns cost, and from where they pay.

    python -m benchmarks.attention_scaling PART

PART, each of some minutes and kept by itself in benchmarks/results/attention_scaling-cpu.json, is one of
  longformer, bigbird     blocks of the pattern (`arch.ops.sparse_attention`), 1k to 128k tokens, with the exponents of
                          time and temporaries fitted from 8k on
  dense, reference        all pairs in chunks (`arch.ops.chunked_attention`), and at once, as far as they go
  16k                     both patterns, dense, and torch's scaled_dot_product_attention, in turns
  4k                      both patterns and transformers' Longformer and BigBird of the same sizes, in turns
  crossover               from what is kept: the lengths from which a pattern takes less time than all pairs
ARCH_PEERS_PYTHON names the peers' Python (`make peers` makes `.venv-peers/bin/python`). A time is the least of all
runs, the median stands beside it. Both sides have glibc's huge pages, as `run.py` has.
"""

import functools
import json
import math
import sys

import jax.numpy as jnp
import numpy as np

from arch.ops.attention import attend
from arch.ops.chunked_attention import chunked_attend
from arch.ops.patterns import Pattern, block_map
from arch.ops.sparse_attention import sparse_attend
from arch.patterns import bigbird, longformer
from arch.train import huge_pages
from benchmarks import attention_figure, measure
from benchmarks.turns import Compiled, Peer, alone, exponent, in_turns

NAME, HEAD_DIM, GLOBALS = "attention_scaling", 64, 64
PATTERNS = {
    "longformer": (longformer.Config(window=512, globals=tuple(range(GLOBALS))).make(1), (64, 64)),
    "bigbird": (bigbird.Config(block=64).make(1), (64, 64)),
}
"""The pattern, and the blocks in which it is met. One global token costs what a block of them does."""
LENGTHS = {"longformer": 17, "bigbird": 17, "dense": 14, "reference": 13}
"""Up to two to this power; from 1024 on."""
HEADS, BASE_HEADS = 4, 12
"""Of most parts; of the published base models, in '4k'."""
FITTED, ROUNDS = 8192, 5


def over_blocks(pattern: Pattern, block: tuple[int, int], length: int, heads: int) -> Compiled:
    """Attention over a pattern's blocks, and its gradients; the shares of pairs that are visible, and in those blocks."""
    map_ = block_map(pattern, length, length, block=block)
    pairs = {"density": map_.visible_pairs, "visited": map_.visited_pairs}
    about = {name: round(number / length**2, 5) for name, number in pairs.items()}
    function = lambda *arrays: sparse_attend(*arrays, map_)[0]
    return Compiled(measure.with_gradients(function, 3), *arrays(length, heads), **about)


def arrays(length: int, heads: int) -> list:
    """query, key, value, and the gradient of the result."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((1, length, heads, HEAD_DIM), np.float32)) for _ in range(4)]


def ours(form: str, length: int, heads: int) -> Compiled:
    """A form's result and gradients."""
    if form in PATTERNS:
        return over_blocks(*PATTERNS[form], length, heads)
    function = {"dense": functools.partial(chunked_attend, causal=False), "reference": attend}[form]
    return Compiled(measure.with_gradients(function, 3), *arrays(length, heads))


def peer(form: str, length: int, heads: int) -> Peer:
    """A form of `benchmarks/attention_peer.py`."""
    return Peer("attention_peer.py", form=form, length=length, heads=heads, head_dim=HEAD_DIM, globals=GLOBALS)


def scaling(form: str) -> dict:
    """A row for each length, and the exponents."""
    rows = []
    for length in (2**power for power in range(10, LENGTHS[form] + 1)):
        rows.append({"length": length} | alone(ours(form, length, HEADS)))
        print(rows[-1], flush=True)
    far = [line for line in rows if line["length"] >= FITTED]
    kinds = {"time": "least_ms", "temporaries": "temporary_mib"} if len(far) > 2 else {}
    return {"heads": HEADS, "exponents": {name: exponent(far, key) for name, key in kinds.items()}, "rows": rows}


def at_16k() -> dict:
    """Each pattern beside its share of the dense time, and the dense path beside torch's."""
    length = 1 << 14
    sides = {form: ours(form, length, HEADS) for form in ("longformer", "bigbird", "dense")}
    rows = in_turns(sides | {"torch": peer("sdpa", length, HEADS)}, ROUNDS, seconds=2.0)
    dense = rows["dense"]["least_ms"]
    for form in PATTERNS:
        for share in ("density", "visited"):
            rows[form][f"time_over_{share}_of_dense"] = round(rows[form]["least_ms"] / rows[form][share] / dense, 3)
    rows["dense"]["speed_over_torch"] = round(rows["torch"]["least_ms"] / dense, 3)
    return {"length": length, "heads": HEADS, "rows": rows}


def at_4k() -> dict:
    """Each pattern beside transformers' attention of the same sizes."""
    length, rows = 1 << 12, {}
    for form in PATTERNS:
        sides = {form: ours(form, length, BASE_HEADS), f"transformers {form}": peer(form, length, BASE_HEADS)}
        rows |= in_turns(sides, ROUNDS, seconds=2.0)
        speed = rows[f"transformers {form}"]["least_ms"] / rows[form]["least_ms"]
        rows[form]["speed_over_transformers"] = round(speed, 2)
    return {"length": length, "heads": BASE_HEADS, "rows": rows}


def crossover() -> dict:
    """For each pattern the length from which it takes less time than all pairs, in chunks and at once, interpolated."""
    kept = json.loads((measure.RESULTS / f"{NAME}-cpu.json").read_text())
    rows = {command.split()[-1]: entry["rows"] for command, entry in kept.items() if "rows" in entry}
    return {form: {other: meeting(rows[form], rows[other]) for other in ("dense", "reference")} for form in PATTERNS}


def meeting(rows: list[dict], others: list[dict]) -> int:
    """The first length at which the others take as long; 0 where they take longer at all lengths.

    Raises:
      ValueError: they take less time at the greatest length.
    """
    ahead = [math.log(other["least_ms"] / mine["least_ms"]) for mine, other in zip(rows, others)]
    if ahead[-1] < 0:
        raise ValueError(f"at length={others[-1]['length']} the pattern must take less time than all pairs")
    behind = [index for index, value in enumerate(ahead) if value < 0]
    if not behind:
        return 0
    last = behind[-1]
    return round(rows[last]["length"] * 2 ** (ahead[last] / (ahead[last] - ahead[last + 1])))


PARTS = {form: functools.partial(scaling, form) for form in LENGTHS} | {
    "16k": at_16k,
    "4k": at_4k,
    "crossover": crossover,
}

if __name__ == "__main__":
    huge_pages.ask()
    about = {"head_dim": HEAD_DIM, "dtype": "float32", "device": measure.device()}
    measure.add(NAME, (sys.argv[1],), about | PARTS[sys.argv[1]](), platform="cpu")
    attention_figure.main()
