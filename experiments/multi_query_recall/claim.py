"""Multi-query associative recall: accuracies of mixers by their width."""

from experiments.claim import Claim, Expectation, by
from experiments.figure import Line, Panel

LEARNED = 0.97


def rows(point):
    """The accuracy at the end."""
    chosen = dict(mixer=point.options["mixer"], width=int(point.options["width"]))
    about = dict(rate=point.options["learning_rate"], seed=point.result.config["seed"])
    return [chosen | about | dict(accuracy=round(point.last["eval/valid/accuracy"], 4))]


def best(rows):
    """{(mixer, width): accuracy}, that of the best rate."""
    return {key: max(row["accuracy"] for row in some) for key, some in by(rows, "mixer", "width").items()}


def table(rows, paper):
    """Accuracies in percent, a line a mixer and a column a width."""
    lines = {mixer: {"mixer": mixer} for mixer in by(rows, "mixer")}
    for (mixer, width), accuracy in best(rows).items():
        lines[mixer][f"width {width}"] = f"**{accuracy:.1%}**" if accuracy >= LEARNED else f"{accuracy:.1%}"
    return list(lines.values())


def figure(rows, paper):
    """Accuracy against width."""
    found = best(rows)
    of = lambda name: [(width, accuracy) for (mixer, width), accuracy in found.items() if mixer == name]
    lines = [Line(mixer, of(mixer)) for mixer in by(rows, "mixer")]
    return [Panel("Accuracy on the answers", "width", lines, log_x=True)]


def expect(rows, paper):
    """Attention recalls at every width; Hyena is behind it where it is narrow, and gains from width."""
    found = best(rows)
    widths = sorted({width for _, width in found})
    shown = lambda mixer: ", ".join(f"{found[mixer, width]:.1%} at {width}" for width in widths)
    narrow, wide = widths[0], widths[-1]
    behind = found["attention", narrow] - found["hyena", narrow]
    return [
        Expectation(
            "attention recalls at every width",
            all(found["attention", width] >= LEARNED for width in widths),
            shown("attention"),
        ),
        Expectation("Hyena does not where it is narrow", found["hyena", narrow] < LEARNED, shown("hyena")),
        Expectation("and is at least 10 points behind attention there", behind >= 0.1, f"{behind:+.1%}"),
        Expectation("Hyena gains from width", found["hyena", wide] > found["hyena", narrow], shown("hyena")),
    ]


CLAIM = Claim(
    title="Multi-query associative recall (MQAR)",
    claim="""Arora et al., 2023 (arXiv 2312.04927, figure 2): attention recalls the values of several keys at every
width; gated convolutions such as Hyena need a width that grows with the length. (Mamba is not in that figure: nothing
is expected of it here.)""",
    setup="""Two layers of one mixer each, with norms and nothing between, as the paper has them; attention has one
head, dropout 0.1 on its weights, and learned positions, which the others do without. The rows are those of
`arch/tasks/multi_query_recall.py`; the accuracy is that on all answers of the rows. Of several rates the best counts.
The paper draws curves and prints no numbers.""",
    sizes={
        "small": """4 pairs in 64 symbols, the paper's shortest rows, of 64 letters instead of 8192; widths 16 and 64
instead of 64 to 512; 1000 steps of 64 rows, none of which is drawn twice, instead of 64 epochs of 100 000; one of the
paper's four rates, 0.0022; one seed.""",
        "paper": """16 pairs in 256 symbols of 8192; the paper's four widths, four rates, 64 epochs of 100 000 rows in
batches of 256.""",
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="Accuracy on the answers against the width.",
    expect=expect,
    remarks={
        "small": """No mixer has learned the task in so few steps: 64 000 rows, where the paper's runs see 6.4 million.
So these accuracies order how fast the mixers begin, and say nothing of what they can recall in the end. One seed and
one rate; the run shared its machine with others, and one point was begun again, so that its time says nothing."""
    },
)
