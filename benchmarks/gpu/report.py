"""The tables of what is kept, as text or Markdown.

python -m benchmarks.gpu.report [markdown]
"""

import dataclasses
import sys
from collections.abc import Sequence

from benchmarks.gpu.goals import BOTH, GOALS, Rows, judged

TIMED = ("dense_attention", "sparse_attention", "recurrences", "grouped_matmul")


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of words under a title."""

    title: str
    header: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]

    def text(self) -> str:
        """Aligned, for a terminal."""
        widths = [max(len(line[i]) for line in (self.header, *self.lines)) for i in range(len(self.header))]
        row = lambda line: "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        return "\n".join([f"{self.title}", *(f"  {row(line)}" for line in (self.header, *self.lines))])

    def markdown(self) -> str:
        """For a README."""
        row = lambda line: f"| {' | '.join(cell.replace('|', '/') for cell in line)} |"
        return "\n".join(
            [f"**{self.title}**", "", row(self.header), row(["---"] * len(self.header)), *map(row, self.lines)]
        )


def tables(rows: Rows) -> list[Table]:
    """All of which there is something, the judged ratios last, where a terminal ends."""
    makers = correctness, failures, training, speed, decoding
    found = [maker(rows) for maker in makers[:2]] + [contests(rows, part) for part in TIMED]
    found += [maker(rows) for maker in makers[2:]] + [goals(rows), origin(rows)]
    return [table for table in found if table.lines]


def correctness(rows: Rows) -> Table:
    """Of each operation how many results are right, and the error nearest to what is allowed; each that is wrong."""
    lines, all_rows = [], rows.of("correctness")
    for operation in dict.fromkeys(row["operation"] for row in all_rows):
        mine = [row for row in all_rows if row["operation"] == operation]
        share = max((float(row["max_error"]) / row["allowed"] for row in mine if row["right"]), default=0.0)
        lines.append((operation, f"{sum(row['right'] for row in mine)} of {len(mine)}", f"{share:.2f}", ""))
        for row in mine:
            if not row["right"]:
                lines.append(
                    (operation, "WRONG", f"{row['max_error']} > {row['allowed']}", f"{row['case']}: {row['result']}")
                )
    return Table("Correctness of the kernels", ("operation", "right", "worst error / allowed", "where"), lines)


def failures(rows: Rows) -> Table:
    """Pieces that ended with an error."""
    return Table("Pieces that failed", ("part", "piece", "why"), rows.failed())


def contests(rows: Rows, part: str) -> Table:
    """Times of each side, or why there is none."""
    lines, all_rows = [], rows.of(part)
    for contest, side in dict.fromkeys((row["contest"], row["side"]) for row in all_rows):
        mine = {row["what"]: row for row in all_rows if (row["contest"], row["side"]) == (contest, side)}
        cells = [contest, side]
        for what in ("forward", BOTH):
            row = mine.get(what, {})
            rate = f"{row['tflop_s']} TFLOP/s" if "tflop_s" in row else f"{row['tb_s']} TB/s" if "tb_s" in row else ""
            cells += [
                f"{row['median_ms']:.3f}" if "median_ms" in row else row.get("missing", row.get("error", "")),
                rate,
            ]
        worst = [str(row["difference"]) for row in mine.values() if "difference" in row]
        lines.append((*cells, " ".join(worst)))
    header = ("contest", "side", "forward ms", "", f"{BOTH} ms", "", "difference")
    return Table(f"{part.replace('_', ' ').capitalize()}: median times", header, lines)


def training(rows: Rows) -> Table:
    """Steps of the 1B models."""
    lines = [_step(row, f"{100 * row.get('mfu', 0):.1f} %") for row in rows.of("training")]
    return Table("Training at 4096 tokens", ("model", "parameters", "ms a step", "tokens/s", "MFU"), lines)


def _step(row: dict, *more: str) -> tuple[str, ...]:
    return (
        row["model"],
        f"{row['parameters'] / 1e9:.2f}B",
        f"{row['median_ms']:.1f}",
        f"{row['tokens_per_second']:,}",
        *more,
    )


def speed(rows: Rows) -> Table:
    """Tokens a second of the 130m models, a column a length."""
    found = {(row["model"], row["length"]): f"{row['tokens_per_second']:,}" for row in rows.of("speed")}
    models, lengths = (sorted({key[i] for key in found}) for i in range(2))
    lines = [(model, *(found.get((model, length), "") for length in lengths)) for model in models]
    return Table("Training of small models, tokens/s", ("model", *map(str, lengths)), lines)


def decoding(rows: Rows) -> Table:
    """Tokens a second, and until the first one."""
    lines = []
    for row in rows.of("decoding"):
        what = row.get("missing") or f"{row['tokens_per_second']:,}"
        lines.append((row["model"], str(row["batch"]), row["side"], what, str(row.get("first_token_ms", ""))))
    return Table("Greedy decoding", ("model", "batch", "side", "tokens/s", "ms to the first token"), lines)


def goals(rows: Rows) -> Table:
    """The ratios that are judged."""
    if not rows.parts:
        return Table("", (), [])
    mark = lambda number: f"{number:g}" if number else ""
    lines = [(goal.name, *judged(goal, rows), mark(goal.floor), mark(goal.aim)) for goal in GOALS]
    lines = [(name, value, floor, aim, stands) for name, value, stands, floor, aim in lines]
    return Table("Goals", ("what", "value", "floor", "aim", "stands at"), lines)


def origin(rows: Rows) -> Table:
    """Where and when it ran."""
    pieces = [piece for part in rows.parts.values() for piece in part["pieces"].values() if "device" in piece]
    seen = {(piece["device"], _in_a_line(piece["versions"]), piece["at"][:10]) for piece in pieces}
    return Table("Where and when", ("device", "versions", "date"), sorted(seen))


def _in_a_line(versions: dict) -> str:
    """Names and versions in a line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def text(rows: Rows | None = None, *, markdown: bool = False) -> str:
    """All tables; without anything kept, a line that says so."""
    found = tables(rows or Rows())
    shown = [table.markdown() if markdown else table.text() for table in found]
    return "\n\n".join(shown) or "nothing is kept yet: make bench-gpu, where there is a GPU"


if __name__ == "__main__":
    print(text(markdown=sys.argv[1:] == ["markdown"]))
