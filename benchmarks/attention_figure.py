"""The figure of `benchmarks.attention_scaling`: time and temporaries of attention against the length, both in powers.

    python -m benchmarks.attention_figure

Reads benchmarks/results/attention_scaling-cpu.json and writes the SVG of the same name beside it, as each part of the
benchmark does at its end. What was measured at 16k tokens only is a point without a line.
"""

import json
import math
import sys

from benchmarks import measure

WIDTH, HEIGHT, LEFT, TOP, BETWEEN = 340, 260, 70, 40, 110
"""Pixels of a panel, and around it."""
COLOURS = {"longformer": "#0072b2", "bigbird": "#d55e00", "dense": "#333333", "reference": "#888888"}
NAMES = {
    "longformer": "Longformer",
    "bigbird": "BigBird",
    "dense": "all pairs, in blocks",
    "reference": "all pairs, at once",
}
PANELS = {
    "least_ms": ("Time of forward and backward (s)", 1e-3),
    "temporary_mib": ("Temporaries (MiB)", 1.0),
}


class Panel:
    """One plot of a number against the length, both axes logarithmic.

    Attributes:
      left: its place, in pixels.
      lines: the points (length, value) of each form.
    """

    def __init__(self, left: int, lines: dict[str, list[tuple[float, float]]]):
        self.left, self.lines = left, lines
        points = [point for line in lines.values() for point in line]
        lengths, values = ([math.log10(point[axis]) for point in points] for axis in (0, 1))
        self.lengths = min(lengths), max(lengths)
        self.values = math.floor(min(values)), math.ceil(max(values))

    def at(self, length: float, value: float) -> tuple[float, float]:
        """Pixels of a point."""
        part = lambda number, low, high: (math.log10(number) - low) / (high - low)
        x, y = part(length, *self.lengths), part(value, *self.values)
        return round(self.left + WIDTH * x, 1), round(TOP + HEIGHT * (1 - y), 1)

    def svg(self, title: str) -> str:
        """Axes, grid and lines."""
        right, bottom = self.left + WIDTH, TOP + HEIGHT
        out = [text(self.left, TOP - 14, title, "start", "bold")]
        for power in range(10, 18):
            if math.log2(10) * self.lengths[0] - 0.01 <= power <= math.log2(10) * self.lengths[1] + 0.01:
                x, _ = self.at(2**power, 10.0 ** self.values[0])
                out += [rule(x, TOP, x, bottom), text(x, bottom + 18, f"{2 ** (power - 10)}k", "middle")]
        for power in range(self.values[0], self.values[1] + 1):
            _, y = self.at(10 ** self.lengths[0], 10.0**power)
            out += [rule(self.left, y, right, y), text(self.left - 8, y + 4, f"{10.0**power:g}", "end")]
        out.append(text((self.left + right) / 2, bottom + 38, "tokens", "middle"))
        for form, line in self.lines.items():
            points = [self.at(*point) for point in line]
            joined = " ".join(f"{x},{y}" for x, y in points)
            out.append(f'<polyline points="{joined}" fill="none" stroke="{COLOURS[form]}" stroke-width="2"/>')
            out += [f'<circle cx="{x}" cy="{y}" r="3" fill="{COLOURS[form]}"/>' for x, y in points]
        return "\n".join(out)


def text(x: float, y: float, words: str, anchor: str, weight: str = "normal", colour: str = "#222222") -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">{words}</text>'


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line of the grid."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#dddddd"/>'


def rows_of(form: str, parts: dict) -> list[dict]:
    """A form's rows: those of its own part, else the one of the part '16k', else none."""
    if form in parts:
        return parts[form]["rows"]
    beside = parts.get("16k", {"rows": {}})
    return [beside["rows"][form] | {"length": beside["length"]}] if form in beside["rows"] else []


def figure(kept: dict) -> str:
    """The SVG of what the benchmark has kept, of the forms that it has."""
    parts = {command.split()[-1]: entry for command, entry in kept.items()}
    rows = {form: found for form in NAMES if (found := rows_of(form, parts))}
    out = []
    for number, (key, (title, unit)) in enumerate(PANELS.items()):
        lines = {form: [(row["length"], unit * row[key]) for row in found] for form, found in rows.items()}
        out.append(Panel(LEFT + number * (WIDTH + BETWEEN), lines).svg(title))
    width, legend = LEFT + 2 * WIDTH + BETWEEN + 30, TOP + HEIGHT + 66
    for number, form in enumerate(rows):
        x = LEFT + 210 * number
        out.append(f'<rect x="{x}" y="{legend - 9}" width="14" height="4" fill="{COLOURS[form]}"/>')
        out.append(text(x + 20, legend - 3, f"{NAMES[form]}{_exponents(parts.get(form, {}))}", "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {legend + 14}" width="{width}"'
    style = 'font-family="Helvetica, Arial, sans-serif" font-size="12"'
    white = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f"{head} {style}>", white, *out, "</svg>", ""])


def _exponents(part: dict) -> str:
    """Those of time and temporaries, where they are fitted."""
    fitted = part.get("exponents")
    return f" (N^{fitted['time']:.2f}, N^{fitted['temporaries']:.2f})" if fitted else ""


def main() -> None:
    """Writes the file."""
    path = measure.RESULTS / "attention_scaling-cpu.json"
    path.with_suffix(".svg").write_text(figure(json.loads(path.read_text())))
    print(path.with_suffix(".svg").relative_to(measure.RESULTS.parents[1]), file=sys.stderr)


if __name__ == "__main__":
    main()
