"""How near random features come to softmax attention, by their kernel and number, and whether they are orthogonal."""

import math

from experiments.claim import Claim, Expectation, by, mean
from experiments.figure import Line, Panel

NAMES = {True: "orthogonal", False: "independent"}


def table(rows, paper):
    """Mean squared errors: mean over the samples, and their standard deviation."""
    lines = {count: {"features": str(count)} for count in by(rows, "features")}
    for (kernel, orthogonal, count), some in by(rows, "kernel", "orthogonal", "features").items():
        average = mean(some, "error")
        deviation = math.sqrt(sum((row["error"] - average) ** 2 for row in some) / len(some))
        lines[count][f"{kernel}, {NAMES[orthogonal]}"] = f"{average:.2e} ± {deviation:.1e}"
    return list(lines.values())


def curves(rows):
    """{(kernel, orthogonal): {features: mean error}}."""
    found = {}
    for (kernel, orthogonal, count), some in by(rows, "kernel", "orthogonal", "features").items():
        found.setdefault((kernel, orthogonal), {})[count] = mean(some, "error")
    return found


def figure(rows, paper):
    """One panel, a line a kind of features."""
    lines = [
        Line(f"{kernel}, {NAMES[orthogonal]}", list(curve.items()), dashed=not orthogonal)
        for (kernel, orthogonal), curve in curves(rows).items()
    ]
    return [Panel("Mean squared error of the output", "random features", lines, log_x=True, log_y=True)]


def expect(rows, paper):
    """The paper's two orderings, at every number of features, and that more features are better."""
    found, out = curves(rows), []
    for kernel in dict.fromkeys(kernel for kernel, _ in found):
        ratios = {count: found[kernel, True][count] / error for count, error in found[kernel, False].items()}
        shown = ", ".join(f"{ratio:.2g} at {count}" for count, ratio in ratios.items())
        says = f"the error of {kernel} features is less where they are orthogonal"
        out.append(Expectation(says, all(ratio < 1 for ratio in ratios.values()), f"times {shown}"))
    for orthogonal in (True, False):
        ratios = {count: error / found["trigonometric", orthogonal][count] for count, error in
                  found["positive", orthogonal].items()}  # fmt: skip
        shown = ", ".join(f"{ratio:.2g} at {count}" for count, ratio in ratios.items())
        says = f"of {NAMES[orthogonal]} features the positive ones have less error than the trigonometric"
        out.append(Expectation(says, all(ratio < 1 for ratio in ratios.values()), f"times {shown}"))
    curve = list(found["positive", True].items())
    falls = all(later < earlier for (_, earlier), (_, later) in zip(curve, curve[1:]))
    says = "the error of positive orthogonal features falls with each doubling of their number"
    return [*out, Expectation(says, falls, f"{curve[0][1]:.1e} to {curve[-1][1]:.1e}")]


CLAIM = Claim(
    title="Performer: orthogonal and positive random features",
    claim="""Choromanski et al., 2020 (arXiv 2009.14794, figure 4): of attention approximated by random features the
mean squared error is less where the features are orthogonal than where they are independent, and less with positive
features than with trigonometric ones.""",
    setup="""Attention of one head in both directions over 4096 tokens of 16 channels, approximated by
`arch/ops/linear_attention/favor.py` and compared with the exact output, 15 draws of inputs and vectors. Queries, keys
and values are standard normal; the paper says "appropriately normalized". The table has means and standard deviations
over the draws.""",
    sizes={"small": "Length, channels and number of draws are the paper's; it draws curves and prints no numbers."},
    table=table,
    figure=figure,
    caption="Mean squared error of the approximated output against the number of random features.",
    expect=expect,
    verdict="ordering reproduced",
    remarks={
        "small": """Positive features beat trigonometric ones by orders of magnitude; that orthogonal vectors beat
independent ones does not show. Our inputs are standard normal, so that exponents of 16 channels spread widely and a few
pairs decide the error: its standard deviation over the draws is as large as its mean, and so are the differences
between the columns. The paper does not say how it normalizes; smaller inputs, on which the variance of the vectors
would tell, have not been run. On its few small vectors `tests/ops/linear_attention/test_favor.py` holds orthogonal
features to a lesser error."""
    },
)
