"""The numbers of a sweep of `config.py` as one file, and their table and figure.

    python -m experiments.moe_load_imbalance.collect WORKDIR       results.json, figure.svg; prints the table
    python -m experiments.moe_load_imbalance.collect               figure and table of results.json again
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import record

HERE = pathlib.Path(__file__).parent
COMMAND = "python run.py --config=experiments/moe_load_imbalance/config.py --workdir=WORKDIR --mode=sweep"
LAYERS = 2
NUMBERS = ("load_max", "load_cv", "dead_experts", "dropped_fraction")
LAST = 10
"""Logged steps over which the loads are averaged."""


def collect(workdir: pathlib.Path) -> dict[str, Any]:
    """What a finished sweep measured. Raises ValueError where a point is not finished."""
    rows, points = [], record.finished(workdir)
    for point in points:
        logged = [line for line in record.lines(workdir, point) if "train/loss" in line]
        row = dict(remedy=point.overrides["arg"].removeprefix("remedy="), seconds=round(point.seconds))
        row |= dict(valid_nats=_round(point.last["eval/valid/loss"]))
        for number in NUMBERS:
            names = [f"moe/layers/{layer}/{number}" for layer in range(LAYERS)]
            row[number] = [_round(sum(line[name] for line in logged[-LAST:]) / LAST) for name in names]
        row["largest_load"] = [[_round(line[f"moe/layers/{i}/load_max"]) for line in logged] for i in range(LAYERS)]
        rows.append(row | dict(steps=[line["step"] for line in logged]))
    return record.of(workdir, points, command=COMMAND, rows=rows)


def _round(value: float) -> float:
    return round(value, 4)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the README; of two numbers with a slash the first is of layer 0, the second of layer 1."""
    two = lambda values, form: " / ".join(format(value, form) for value in values)
    head, lines = ("remedy", "largest load", "load CV", "dead experts", "dropped", "validation nats"), []
    for row in rows:
        cells = [row["remedy"], two(row["load_max"], ".0%"), two(row["load_cv"], ".2f")]
        cells += [two(row["dead_experts"], ".1f"), two(row["dropped_fraction"], ".1%"), f"{row['valid_nats']:.3f}"]
        lines.append(cells)
    return record.table(head, lines)


WIDTH, HEIGHT, GAP, TOP = 380, 260, 60, 40
COLOURS = ("#111111", "#d62728", "#ff7f0e", "#bcbd22", "#2ca02c", "#17becf", "#1f77b4", "#9467bd", "#e377c2")


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """SVG: of each layer the largest load over the steps, a line a remedy."""
    parts, last = [], max(rows[0]["steps"])
    for layer in range(LAYERS):
        left = GAP + layer * (WIDTH + GAP)
        parts.append(f'<text x="{left}" y="{TOP - 12}">layer {layer}: share of the busiest expert, by step</text>')
        for share in (0, 0.125, 0.5, 1):
            y = TOP + HEIGHT * (1 - share)
            parts.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#cccccc"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
        for row, colour in zip(rows, COLOURS, strict=False):
            points = zip(row["steps"], row["largest_load"][layer])
            path = " ".join(f"{left + WIDTH * x / last:.1f},{TOP + HEIGHT * (1 - y):.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + WIDTH}" y="{TOP + HEIGHT + 16}" text-anchor="end">{last}</text>')
    left = GAP + LAYERS * (WIDTH + GAP) - 30
    for i, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        y = TOP + 12 + 22 * i
        parts.append(f'<path d="M{left} {y}h24" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{left + 30}" y="{y + 4}">{row["remedy"]}</text>')
    size = f'width="{left + 150}" height="{TOP + HEIGHT + 30}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def main(argv: Sequence[str]) -> None:
    """Of the command line, without the program's name."""
    file = HERE / "results.json"
    if argv:
        record.write(file, collect(pathlib.Path(argv[0])))
    rows = json.loads(file.read_text())["rows"]
    (HERE / "figure.svg").write_text(figure(rows))
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
