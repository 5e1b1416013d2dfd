"""What an experiment says: a claim, what is kept of each point, what is expected of all, and how that is shown.

Each folder beside this file holds one claim:

    config.py      what runs: `get_config(arg)` and `sweep()`, of each size
    claim.py       CLAIM, a `Claim`
    paper.json     the numbers that the source prints: `source`, and `rows`
    results/       <size>.json, what was measured; <size>.svg, its figure
    README.md      all of this as a page

The last two lines are written by `run.py --mode=report` (`experiments/report.py`), and by nothing else.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from experiments.figure import Panel
from experiments.record import Point, Row

Rows = Sequence[Row]
Table = Sequence[Mapping[str, str]]

SIZES = {
    "small": "for two CPU cores",
    "paper": "the source's numbers, for an accelerator",
}


@dataclasses.dataclass(frozen=True)
class Expectation:
    """Something that the source, or the theory, leads to expect of the numbers.

    Attributes:
      says: in words, without the numbers measured.
      holds: whether these bear it out.
      found: the numbers by which it was judged.
    """

    says: str
    holds: bool
    found: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim and its reproduction. Texts are Markdown, and hold no number that was measured.

    Attributes:
      title: of the page.
      claim: what is said, and by whom.
      setup: what runs, at every size.
      sizes: by the name of each size in which it can run, how that differs from the source.
      rows: what is kept of a point.
      table: (rows, the paper's rows) -> the lines of the table, cells by the head of their column.
      figure: (rows, the paper's rows) -> panels; none for no figure.
      caption: of the figure.
      expect: (rows, the paper's rows) -> what is expected, in the order of importance.
      verdict: what it is called when all of that holds.
      remarks: by size, what else there is to say once it has run: above all why something does not hold.
    """

    title: str
    claim: str
    setup: str
    sizes: Mapping[str, str]
    rows: Callable[[Point], Rows] = Point.measured
    table: Callable[[Rows, Rows], Table]
    figure: Callable[[Rows, Rows], Sequence[Panel]] = lambda rows, paper: ()
    caption: str = ""
    expect: Callable[[Rows, Rows], Sequence[Expectation]]
    verdict: str = "ordering reproduced"
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def judged(self, rows: Rows, paper: Rows) -> str:
        """The verdict on these rows."""
        expected = self.expect(rows, paper)
        held = sum(each.holds for each in expected)
        if held == len(expected):
            return self.verdict
        return f"reproduced in part: {held} of {len(expected)} expectations hold" if held else "not reproduced"


def by(rows: Rows, *keys: str) -> dict:
    """Rows by the values of these keys, in the order of the first of each; by the value itself of one key."""
    found: dict = {}
    for row in rows:
        values = tuple(row[key] for key in keys)
        found.setdefault(values if len(keys) > 1 else values[0], []).append(row)
    return found


def mean(rows: Rows, key: str) -> float:
    """The mean of a number over rows, such as those of all seeds."""
    return sum(row[key] for row in rows) / len(rows)


def spread(values: Iterable[float], form: str) -> str:
    """Numbers of several seeds in one cell: their mean, and the least and the greatest; one number alone as it is."""
    values = list(values)
    text = format(sum(values) / len(values), form)
    return f"{text} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else text


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """Of the power of x that fits y best: 1 where y is linear in x, 2 where it is quadratic."""
    return float(np.polyfit(*np.log(np.array(list(points), float)).T, 1)[0])
