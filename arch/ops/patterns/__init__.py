"""Patterns of attention: which query sees which key, as data, and the blocks that follow from it.

    causal & (window(512) | global_tokens(0) | random_blocks(3, seed=1))

Strided and fixed: Child et al., Sparse Transformers, 2019, arXiv 1904.10509, sec. 4.3; window, dilated, global: Beltagy
et al., Longformer, 2020, arXiv 2004.05150, sec. 3.1; random blocks: Zaheer et al., Big Bird, 2020, arXiv 2007.14062;
axial: Ho et al., Axial Attention, 2019, arXiv 1912.12180; prefix: Raffel et al., T5, 2019, arXiv 1910.10683, sec. 3.2.
Places count from 0 in the row, whatever documents are packed into it.
"""

import math

from arch.ops.patterns.blocks import BlockMap, block_map
from arch.ops.patterns.pattern import ByHead, Pattern
from arch.ops.patterns.predicates import BlockDistance, Distance, Ends, Prefix, Residue, Segments, Tokens
from arch.ops.patterns.released import ReleasedBlocks
from arch.ops.patterns.rows import RandomBlocks, Rows

__all__ = [
    "BlockMap", "Pattern", "axial", "block_diagonal", "block_list", "block_local", "block_map", "by_head", "causal",
    "ends", "fixed", "full", "global_tokens", "prefix", "random_blocks", "released_blocks", "segments", "strided",
    "window",
]  # fmt: skip

full: Pattern = Distance()
"""A query sees every key."""
causal: Pattern = Distance(low=0)
"""A query sees itself and what is before it."""
random_blocks = RandomBlocks
released_blocks = ReleasedBlocks


def window(size: int, *, dilation: int = 1) -> Pattern:
    """Keys less than `size` steps of `dilation` places away, on both sides: a band of 2 size - 1. With `causal &`, the
    last `size` ones, itself included."""
    if size < 1 or dilation < 1:
        raise ValueError(f"{size=} and {dilation=} must be at least 1")
    reach = (size - 1) * dilation
    return Distance(-reach, reach, dilation)


def prefix(length: int) -> Pattern:
    """The first so many tokens, a prefix-LM's input, are seen by all; what comes behind is causal."""
    return causal | Prefix(length)


def global_tokens(*places: int) -> Pattern:
    """Tokens at these places see all and are seen by all; places below 0 count from the end."""
    return Tokens(places)


def ends(first: int, last: int = 0) -> Pattern:
    """The first and the last so many tokens of the row see all and are seen by all."""
    return Ends(first, -last) if last else Ends(first)


def block_diagonal(size: int) -> Pattern:
    """A token sees its own block of `size` tokens."""
    return BlockDistance(size)


def block_local(size: int, *, before: int = 1, after: int = 1) -> Pattern:
    """A token sees its own block of `size` tokens, and so many blocks before and after it."""
    return BlockDistance(size, before, after)


def strided(stride: int) -> Pattern:
    """The last `stride` tokens, and every stride-th one before (Sparse Transformer), causal."""
    return causal & (window(stride) | Distance(step=stride))


def fixed(stride: int, *, summaries: int = 1) -> Pattern:
    """The own block of `stride` tokens, and the last `summaries` tokens of every block (Sparse Transformer), causal."""
    return causal & (BlockDistance(stride) | Residue(stride, summaries))


def axial(*shape: int) -> Pattern:
    """Tokens of a grid of this shape, in row-major order, see those that differ in one coordinate only."""
    sizes = [(math.prod(shape[axis:]), math.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    lines = [BlockDistance(span) & Distance(step=step) for span, step in sizes]
    whole = lines[0]
    for line in lines[1:]:
        whole = whole | line
    return whole


def segments(*borders: int) -> Pattern:
    """A token sees its own segment; each but the first begins at one of these places. `causal &` it for documents."""
    return Segments(borders)


def by_head(*patterns: Pattern, each: int = 1) -> Pattern:
    """The first `each` heads see by the first pattern, the next ones by the second, and so on."""
    return ByHead(patterns, each)


def block_list(size: int, rows: tuple[tuple[int, ...], ...]) -> Pattern:
    """Block i of `size` queries sees the blocks rows[i] of `size` keys, which ascend."""
    return Rows(size, (rows,))
