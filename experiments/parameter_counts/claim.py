"""How many parameters the published architectures have, beside the numbers that their papers print."""

import re

from experiments.claim import Claim, Expectation, by
from experiments.figure import Line, Panel

UNITS = {"": 1, "M": 10**6, "B": 10**9, "T": 10**12}


def number(printed):
    """A printed number, '13.0B', and half a unit of its last digit; the zeros of a whole number are no digits of it."""
    digits, unit = re.fullmatch(r"([\d.,]+)([MBT]?)", printed).groups()
    whole, _, part = digits.replace(",", "").partition(".")
    zeros = 0 if part else len(whole) - len(whole.rstrip("0"))
    return float(f"{whole}.{part or 0}") * UNITS[unit], 10.0 ** (zeros - len(part)) * UNITS[unit] / 2


def compared(rows, paper):
    """Of each printed number (its row, our count, their relative difference, whether ours rounds to it)."""
    ours = {row["model"]: row for row in rows}
    for row in paper:
        if row["model"] in ours:
            count, (printed, half) = ours[row["model"]][row["of"]], number(row["printed"])
            yield row, count, count / printed - 1, abs(count - printed) <= half


def table(rows, paper):
    """A line a printed number."""
    of = {"total": "", "active": ", of a token", "body": ", without tables"}
    return [
        {
            "model": row["model"] + of[row["of"]],
            "ours": f"{count:,}",
            "printed": row["printed"],
            "difference": f"{difference:+.1%}",
            "rounds to it": "yes" if rounds else "**no**",
        }
        for row, count, difference, rounds in compared(rows, paper)
    ]


def figure(rows, paper):
    """The difference against the size."""
    points = [(count, 100 * difference) for _, count, difference, _ in compared(rows, paper)]
    return [Panel("Difference from the printed number, %", "parameters", [Line("model", points, False)], log_x=True)]


def expect(rows, paper):
    """One a family: that its counts round to the printed numbers."""
    lines = [
        dict(family=row["model"].split(".")[0], rounds=rounds, off=f"{row['model'].split('.')[1]} {difference:+.1%}")
        for row, _, difference, rounds in compared(rows, paper)
    ]
    out = []
    for family, of_family in by(lines, "family").items():
        off = [line["off"] for line in of_family if not line["rounds"]]
        says = f"{family}'s counts round to the printed digits"
        out.append(Expectation(says, not off, ", ".join(off) or f"all {len(of_family)}"))
    return out


CLAIM = Claim(
    title="Parameters of published architectures",
    claim="""The papers' tables of model sizes follow from the architectures as the papers describe them.""",
    setup="""Every preset of `arch/families` is traced, without an array, and its parameters are counted. The table has
those whose number a paper prints; those of the others are in the results. A count rounds to a printed number that is at
most half a unit of its last digit away; the zeros at the end of a whole number are no digits of it (110M is 105 to 115
million).""",
    sizes={"small": "It does not differ: the sizes are the published ones."},
    table=table,
    figure=figure,
    caption="Our count against the printed number, a point a model.",
    expect=expect,
    verdict="reproduced",
    remarks={
        "small": """Where the table says no: PaLM and LLaMA cut the digits that they leave out instead of rounding. The
paper of GPT-2 is known to be off; its released weights have our counts. The Transformer's vocabulary is printed as
"about 37000" and taken for that. Hyena's, XLM-R's and T5's are the names of sizes rather than counts. Why GShard's and
GLaM's smaller models have more by our count than in print we do not know."""
    },
)
