"""Memory of a gradient against depth, by what the forward pass keeps."""

from experiments.claim import Claim, Expectation, by, exponent
from experiments.figure import Line, Panel

FITTED = 36
"""The depth from which on exponents are fitted."""


def table(rows, paper):
    """Temporaries in MiB; in brackets in units of a layer's input."""
    lines = {depth: {"layers": str(depth)} for depth in by(rows, "depth")}
    for row in rows:
        cell = f"{row['temporaries'] / 2**20:.1f} ({row['temporaries'] / row['input']:.0f})"
        lines[row["depth"]][f"{row['keep']} kept, MiB"] = cell
    return list(lines.values())


def curves(rows):
    """{what is kept: [(depth, bytes)]}."""
    return {keep: [(row["depth"], row["temporaries"]) for row in some] for keep, some in by(rows, "keep").items()}


def figure(rows, paper):
    """One panel, a line a way to keep."""
    lines = [Line(keep, curve) for keep, curve in curves(rows).items()]
    return [Panel("Bytes of a gradient's temporaries", "layers", lines, log_x=True, log_y=True)]


def expect(rows, paper):
    """Linear in the depth, linear and less, and with its square root."""
    found = curves(rows)
    power = {keep: exponent([point for point in curve if point[0] >= FITTED]) for keep, curve in found.items()}
    last = {keep: curve[-1][1] for keep, curve in found.items()}
    shown = {keep: f"with power {value:.2f} of the depth" for keep, value in power.items()}
    times = last["everything"] / last["layers"], last["layers"] / last["segments"]
    return [
        Expectation("memory grows linearly where everything is kept", power["everything"] > 0.9, shown["everything"]),
        Expectation("it still does where layers' inputs are kept", power["layers"] > 0.7, shown["layers"]),
        Expectation("but is less than a third of it", times[0] > 3, f"{times[0]:.1f} times less at the greatest depth"),
        Expectation("with segments it grows like a square root", 0.3 < power["segments"] < 0.7, shown["segments"]),
        Expectation("and is less than with layers' inputs", times[1] > 1, f"{times[1]:.1f} times less"),
    ]


CLAIM = Claim(
    title="Gradient checkpointing: memory against depth",
    claim="""Chen et al., 2016 (arXiv 1604.06174, sec. 4): a net of n layers can be trained in memory O(sqrt n), at the
cost of one more forward pass, by keeping the input of each segment of sqrt n layers and computing the rest again.""",
    setup="""Blocks of attention and a perceptron (width 64, hidden width 256, 8 rows of 128 tokens, float32), scanned.
Kept is everything; or the input of each layer, which is `remat='full'` of `arch/layers/stack.py`; or that of each
segment and, while a segment is gone back through, of each of its layers, by two scans with `jax.checkpoint` in
`config.py`. Memory is the temporaries of XLA's plan for the gradient of the parameters, which are arguments and results
and not among it. In brackets it is in units of a layer's input.""",
    sizes={
        "small": """The paper trains a ResNet of 1000 layers and LSTMs; its figures 5 to 7 draw memory and time, which
is not measured here. Within a segment the inputs of layers alone are kept, which is the paper's recursion once more."""
    },
    table=table,
    figure=figure,
    caption="Temporaries of the gradient's compiled program against the depth.",
    expect=expect,
    verdict="reproduced",
    remarks={
        "small": """The two powers that do not hold were asked of the whole of the temporaries, most of which, where
little is kept, is the working memory of one layer, the same at every depth. What is added to it is as the paper says:
in the units in brackets, one for each further layer where layers' inputs are kept, and in proportion to the square root
of the layers where segments' are. The expectations were written before the run, and stay as they were."""
    },
)
