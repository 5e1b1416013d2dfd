"""ListOps: the value of a nested expression over lists of digits, from 0 to 9.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]  ->  5        MIN, MAX, MED: the median, rounded down; SM: the sum mod 10

Nangia, Bowman, ListOps: A Diagnostic Dataset for Latent Tree Learning, 2018, arXiv 1804.06028, sec. 2; lengths, depth
and numbers of arguments of Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2.2.1, and drawn as by its
released code (google-research/long-range-arena, `data/listops.py`): a node above the greatest depth is an operator with
chance 1/4 and else a digit, operators, digits and numbers of arguments being all alike, and expressions are drawn until
there are enough different ones that are neither too short nor too long. As for that code's models, no brackets stand in
a row but those of operators. Where it puts its rows in the order of a hash, ours are in order by chance.
"""

from typing import Annotated, NamedTuple

import numpy as np

from arch import config
from arch.tasks import _classed_rows
from arch.typing import Int

DIGITS = 10
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
SYMBOLS = (_classed_rows.START, *map(str, range(DIGITS)), *OPERATORS, "]")
OPERATOR_CHANCE = 0.25
AT_ONCE = 1 << 15
"""Expressions that are drawn together."""


@config.frozen
class Config(_classed_rows.Task):
    """ListOps, with the lengths and the depth of Long Range Arena.

    Attributes:
      max_depth: of an expression; a digit by itself has depth 1.
      max_args: of an operator.
      min_length: symbols that an expression has more than.
      max_length: symbols that an expression has less than.
      train_rows: rows of an epoch.
      valid_rows: rows of an evaluation.
    """

    max_depth: Annotated[int, config.Range(2)] = 10
    max_args: Annotated[int, config.Range(2)] = 10
    min_length: config.NonNegativeInt = 500
    max_length: config.PositiveInt = 2000
    train_rows: config.PositiveInt = 96_000
    valid_rows: config.PositiveInt = 2000

    symbols = SYMBOLS
    classes = tuple(map(str, range(DIGITS)))

    @property
    def seq_len(self) -> int:
        """The start, and the longest expression."""
        return self.max_length

    def drawn(self) -> dict[str, _classed_rows.Rows]:
        """The rows of both splits, all different. Raises ValueError where there are too few such expressions."""
        generator, wanted = np.random.default_rng(self.draw_seed), self.train_rows + self.valid_rows
        found: dict[bytes, int] = {}
        while len(found) < wanted:
            before = len(found)
            for row, value in zip(*self.draw(generator, AT_ONCE)):
                found.setdefault(row.tobytes(), value)
            if len(found) == before:
                sizes = f"max_depth={self.max_depth}, max_args={self.max_args}, min_length={self.min_length}"
                rule = f"must allow train_rows + valid_rows={wanted} expressions: {AT_ONCE} draws gave no more than"
                raise ValueError(f"{sizes} and max_length={self.max_length} {rule} {before}")
        rows = [np.frombuffer(row, np.uint8) for row in found][:wanted]
        return _classed_rows.split((rows, list(found.values())[:wanted]), self.train_rows, generator)

    def draw(self, generator: np.random.Generator, count: int) -> _classed_rows.Rows:
        """Those of so many expressions whose length is allowed: uint8 ids that begin with the start, and values."""
        levels = [_filled(generator, args) for args in self._shapes(generator, count)]
        lengths, values = _measured(levels)
        offsets = np.cumsum([0, *(1 + lengths[0])])
        return np.split(_written(levels, lengths, offsets), offsets[1:-1]), values.tolist()

    def _shapes(self, generator: np.random.Generator, count: int) -> list[Int[np.ndarray, "_"]]:
        """Of so many expressions those whose length is allowed: at each depth the arguments of each node."""
        size, owner, levels = np.ones(count, np.int64), np.arange(count), []
        for depth in range(1, self.max_depth + 1):
            chance = OPERATOR_CHANCE if depth < self.max_depth else 0.0
            divides = (generator.random(len(owner)) < chance) & (size[owner] < self.max_length)
            args = np.where(divides, generator.integers(2, self.max_args + 1, len(owner)), 0)
            size += np.bincount(owner, args + divides, minlength=count).astype(np.int64)
            levels.append((owner, args))
            owner = np.repeat(owner, args)
        kept = (size > self.min_length) & (size < self.max_length)
        return [args[kept[owner]] for owner, args in levels]


class Level(NamedTuple):
    """The nodes of one depth, of all expressions side by side; the arguments of each stand together in the next level.

    args: how many arguments; 0 for a digit.
    symbols: of the digit or the operator.
    """

    args: np.ndarray
    symbols: np.ndarray


def _filled(generator: np.random.Generator, args: np.ndarray) -> Level:
    """A level with operators and digits drawn."""
    digits, operators = (generator.integers(size, size=len(args)) for size in (DIGITS, len(OPERATORS)))
    return Level(args, 1 + np.where(args > 0, DIGITS + operators, digits))


def _measured(levels: list[Level]) -> tuple[list[np.ndarray], np.ndarray]:
    """The symbols that each node of each level stands for, and the values of the expressions."""
    lengths, value = [np.zeros(0, np.int64)], np.zeros(0, np.int64)
    for level in reversed(levels):
        inner = np.flatnonzero(level.args)
        counts = level.args[inner]
        starts = np.cumsum(counts) - counts
        length, below, value = np.ones(len(level.args), np.int64), value, level.symbols - 1
        length[inner] = 2 + np.add.reduceat(lengths[0], starts)
        value[inner] = _applied(level.symbols[inner] - 1 - DIGITS, below, starts, counts)
        lengths.insert(0, length)
    return lengths, value


def _applied(operators: np.ndarray, values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What operators make of the values of their arguments, `counts` of them from `starts` on."""
    ordered = values[np.lexsort((values, np.repeat(np.arange(len(counts)), counts)))]
    middle = ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]
    sums = np.add.reduceat(values, starts) % 10
    return np.choose(operators, [ordered[starts], ordered[starts + counts - 1], middle // 2, sums])


def _written(levels: list[Level], lengths: list[np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """The ids of all expressions one after another, the start before each."""
    tokens, place = np.zeros(offsets[-1], np.uint8), offsets[:-1] + 1
    for level, length, below in zip(levels, lengths, lengths[1:]):
        inner = np.flatnonzero(level.args)
        tokens[place] = level.symbols
        tokens[(place + length - 1)[inner]] = len(SYMBOLS) - 1
        before, counts = np.cumsum(below) - below, level.args[inner]
        first = np.cumsum(counts) - counts
        place = np.repeat(place[inner] + 1 - before[first], counts) + before
    return tokens
