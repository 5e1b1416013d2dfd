"""What the notebooks show: line charts, arrays as shaded tiles, tables. They are SVG and Markdown, drawn by no library.

Importing this file finds `arch` and `experiments` of this repository, wherever the notebook is run from.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from experiments import figure, page  # noqa: E402
from experiments.figure import Line, Panel  # noqa: E402, F401

SHADES = 10
DARKEST = (8, 48, 107)
GAP, TOP, BELOW = 40, 26, 40
"""Pixels between pictures, above and below them."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """Text of a kind that notebooks display."""

    kind: str
    text: str

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {self.kind: self.text}


def chart(*panels: Panel) -> Shown:
    """Line charts side by side."""
    return Shown("image/svg+xml", figure.draw(panels))


def table(lines: Sequence[Mapping[str, object]]) -> Shown:
    """A table, a line a row, cells by the head of their column."""
    return Shown("text/markdown", page.table([{name: str(cell) for name, cell in line.items()} for line in lines]))


def tiles(
    pictures: Mapping[str, np.ndarray],
    *,
    x: str = "",
    y: str = "",
    height: int = 170,
    width: int = 0,
    across: int = 4,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Shown:
    """Arrays as pictures under one scale of shades: white is the least number of all, dark blue the greatest.

    Args:
      pictures: [i j] arrays by title; i runs down, j to the right.
      x: what runs to the right.
      y: what runs down.
      height: of a picture, in pixels.
      width: likewise; 0 for square tiles.
      across: pictures in a line.
      rows: what each i is called.
      columns: what each j is called.
    """
    arrays = {title: np.asarray(array, float) for title, array in pictures.items()}
    low, high = min(map(np.min, arrays.values())), max(map(np.max, arrays.values()))
    left = 24 + 7 * max((len(name) for name in rows), default=0)
    widths = [width or round(height * array.shape[1] / array.shape[0]) for array in arrays.values()]
    step = max([*widths, *(7 * len(title) for title in arrays)]) + max(GAP, left)
    parts = []
    for number, ((title, array), wide) in enumerate(zip(arrays.items(), widths)):
        at = (left + number % across * step, TOP + number // across * (height + TOP + BELOW))
        parts += [_text(at[0], at[1] - 8, title, 'font-weight="bold"'), *_tiles(array, at, (wide, height), low, high)]
        parts += _names(at, (wide, height), rows, columns)
        parts.append(_text(at[0] + wide / 2, at[1] + height + 28, x, 'text-anchor="middle"'))
        place = f"translate({at[0] - left + 12} {at[1] + height / 2:g}) rotate(-90)"
        parts.append(_text(0, 0, y, f'text-anchor="middle" transform="{place}"'))
    lines = -(-len(arrays) // across)
    size = (left + min(across, len(arrays)) * step, lines * (TOP + height + BELOW) + 14)
    parts.append(_text(left, size[1] - 6, f"white: {low:.3g}, dark: {high:.3g}", 'fill="#555555"'))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" font-family="sans-serif"'
    body = ['<rect width="100%" height="100%" fill="white"/>', *filter(None, parts)]
    return Shown("image/svg+xml", "\n".join([f'{head} font-size="12">', *body, "</svg>"]) + "\n")


def _text(x, y, text, attributes="") -> str:
    return f'<text x="{x:g}" y="{y:g}" {attributes}>{escape(text)}</text>' if text else ""


def _tiles(array, at, size, low, high):
    """One path a shade, of runs along the rows."""
    shade = np.ceil((array - low) / (high - low or 1) * SHADES - 1e-9).astype(int)  # all that is above low shows
    scale = f"translate({at[0]} {at[1]}) scale({size[0] / array.shape[1]:.6g} {size[1] / array.shape[0]:.6g})"
    yield f'<g transform="{scale}" shape-rendering="crispEdges" fill="none">'
    for number in range(1, SHADES + 1):
        runs = "".join(
            f"M{first} {i}.5h{length}" for i, row in enumerate(shade) for first, length in _runs(row == number)
        )
        if runs:
            colour = "#" + "".join(f"{round(255 + number / SHADES * (dark - 255)):02x}" for dark in DARKEST)
            yield f'<path d="{runs}" stroke="{colour}"/>'
    yield "</g>"
    yield f'<rect x="{at[0]}" y="{at[1]}" width="{size[0]}" height="{size[1]}" fill="none" stroke="#888888"/>'


def _runs(row: np.ndarray):
    """(first, length) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return [(int(first), int(end - first)) for first, end in zip(edges[::2], edges[1::2])]


def _names(at, size, rows, columns):
    for i, name in enumerate(rows):
        yield _text(at[0] - 5, at[1] + size[1] * (i + 0.5) / len(rows) + 4, name, 'text-anchor="end"')
    for j, name in enumerate(columns):
        yield _text(at[0] + size[0] * (j + 0.5) / len(columns), at[1] + size[1] + 14, name, 'text-anchor="middle"')
