"""Attention over the blocks of Longformer's and BigBird's patterns at 16k tokens, beside FlexAttention; and over all.

`density` is the share of all pairs that see each other. A pass over blocks that took just that share of the time that
our own kernels take over all pairs would be at the density bound.
"""

from functools import partial

import numpy as np

from arch.ops.patterns import BlockMap, block_map, full
from arch.patterns import bigbird, longformer
from benchmarks.gpu.contest import Contest
from benchmarks.gpu.dense_attention import BLOCK, CHANNELS, HEADS, flops, operands, own
from benchmarks.gpu.peers import jax_attention, torch_attention

LENGTH = 16384
SECONDS = 240
PATTERNS = {
    "longformer": longformer.Config(window=1024, globals=tuple(range(128))),
    "bigbird": bigbird.Config(block=128),
    "bigbird an eighth": bigbird.Config(block=128, random=9),
}
"""The last sees 12.3 % of all pairs at 16k tokens, near the 12.5 that its goal speaks of."""


def seen_by(cfg, blocks: BlockMap, device: str = "cuda"):
    """What FlexAttention sees by: Longformer's rule, BigBird's table of blocks."""
    if isinstance(cfg, longformer.Config):
        side, last = cfg.window // 2, len(cfg.globals)
        return lambda query, key: ((query - key).abs() <= side) | (query < last) | (key < last)
    table = np.zeros((blocks.lists.rows, blocks.key_length // BLOCK[1]), bool)
    table[np.repeat(np.arange(blocks.lists.rows), blocks.lists.count[0]), blocks.lists.blocks] = True
    return torch_attention.table(table, BLOCK[0], device=device)


def flex(cfg, blocks: BlockMap, device: str = "cuda"):
    """FlexAttention over the same blocks."""
    return torch_attention.flex(seen_by(cfg, blocks, device), blocks.key_length, BLOCK[0], device=device)


def over_pattern(name: str, length: int = LENGTH) -> Contest:
    """A row whose tokens see by a pattern."""
    cfg = PATTERNS[name]
    pattern = cfg.make(1)
    blocks = block_map(pattern, length, length, block=BLOCK)
    sides = {"own": lambda: own(pattern, length), "flex": lambda: flex(cfg, blocks)}
    shares = {"density": blocks.visible_pairs, "visited": blocks.visited_pairs}
    about = {what: round(pairs / length**2, 5) for what, pairs in shares.items()}
    return _contest(name, length, sides, blocks.visible_pairs, about)


def over_all(length: int = LENGTH) -> Contest:
    """A row whose tokens see all."""
    sides = {"cudnn": lambda: jax_attention.cudnn(causal=False), "own": lambda: own(full, length)}
    return _contest("all pairs", length, sides, length**2, {"density": 1.0, "visited": 1.0})


def _contest(name, length, sides, pairs, about):
    about = dict(batch=1, length=length, heads=HEADS, channels=CHANNELS) | about
    reference = next(iter(sides))
    return Contest(name, operands(1, length), sides, reference, flops(1, pairs), backward=2.5, about=about)


PIECES = {name: partial(over_pattern, name) for name in PATTERNS} | {"all pairs": over_all}
