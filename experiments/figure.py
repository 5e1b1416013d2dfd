"""Line charts as SVG, side by side under one legend: the same text for the same numbers."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"),
    *("#111111", "#aec7e8", "#98df8a"),
)
WIDTH, HEIGHT, LEFT, TOP, BELOW, LEGEND, STEP = 340, 250, 70, 40, 46, 210, 20
"""Of a panel, of what surrounds it, of the legend and of its lines, in pixels."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Points (x, y) under one name, joined or not; the same name has the same colour in all panels."""

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
      title: above it.
      x: what runs to the right.
      lines: of it.
      log_x, log_y: whether equal ratios are equal distances; the numbers must be positive then.
    """

    title: str
    x: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """From numbers to pixels, and where its ticks are."""

    low: float
    high: float
    log: bool
    start: float
    pixels: float

    def at(self, value: float) -> float:
        """The place of a number."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + self.pixels * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Some round numbers between low and high, both of which count."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / 6)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or of two where ten has less than three."""
    for base in (10, 2):
        step, inside = 1, []
        first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
        while len(inside := range(first, last + 1, step)) > 7:
            step += 1
        if len(inside) > 2:
            break
    return [float(base) ** i for i in inside] or [low, high]


def _axis(values: Iterable[float], log: bool, start: float, pixels: float) -> Axis:
    values = list(values)
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return Axis(low, high, log, start, pixels)


UNITS = tuple(
    (size**power, name + end)
    for size, end in ((1024, "i"), (1000, ""))
    for power, name in ((4, "T"), (3, "G"), (2, "M"), (1, "K" if end else "k"))
)


def label(value: float) -> str:
    """A tick's number: 131072 is 128Ki, 2e12 is 2T."""
    whole = (f"{value / unit:g}{name}" for unit, name in UNITS if value % unit == 0 and 1 <= value / unit < 1000)
    return next(whole, f"{value:g}")


def draw(panels: Sequence[Panel]) -> str:
    """The SVG of panels side by side."""
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    right = len(panels) * (LEFT + WIDTH) + 24
    parts = [part for i, panel in enumerate(panels) for part in _panel(panel, LEFT + i * (LEFT + WIDTH), colours)]
    for i, (name, colour) in enumerate(colours.items()):
        y = TOP + 6 + STEP * i
        parts.append(f'<path d="M{right} {y}h22" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{right + 28}" y="{y + 4}">{escape(name)}</text>')
    height = TOP + max(HEIGHT, STEP * len(names)) + BELOW
    size = f'width="{right + LEGEND}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, colours: dict[str, str]) -> Iterable[str]:
    points = [point for line in panel.lines for point in line.points]
    x = _axis((point[0] for point in points), panel.log_x, left, WIDTH)
    y = _axis((point[1] for point in points), panel.log_y, TOP + HEIGHT, -HEIGHT)
    yield f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{escape(panel.title)}</text>'
    yield f'<text x="{left + WIDTH / 2:g}" y="{TOP + HEIGHT + 36}" text-anchor="middle">{escape(panel.x)}</text>'
    for value in y.ticks():
        yield f'<path d="M{left} {y.at(value):.1f}h{WIDTH}" stroke="#dddddd"/>'
        yield f'<text x="{left - 6}" y="{y.at(value) + 4:.1f}" text-anchor="end">{label(value)}</text>'
    for value in x.ticks():
        yield f'<path d="M{x.at(value):.1f} {TOP + HEIGHT}v5" stroke="#888888"/>'
        yield f'<text x="{x.at(value):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{label(value)}</text>'
    yield f'<path d="M{left} {TOP}v{HEIGHT}h{WIDTH}" fill="none" stroke="#888888"/>'
    for line in panel.lines:
        places, colour = [(x.at(a), y.at(b)) for a, b in line.points], colours[line.name]
        if line.joined:
            path, dashes = " ".join(f"{a:.1f},{b:.1f}" for a, b in places), ' stroke-dasharray="5 4"' * line.dashed
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        if not line.joined or len(places) <= 12:
            yield from (f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places)
