"""What a window of attention costs in quality: bits per byte against the window, and the pairs that it visits."""

from experiments.claim import Claim, Expectation, by, mean, spread
from experiments.figure import Line, Panel

NEAR = 0.05
"""Bits per byte by which two models may differ and still count as alike."""


def rows(point):
    """Bits per byte at the end and at each evaluation before, and the share of a causal row's pairs in the window."""
    window, length = int(point.options["window"]), point.result.config["seq_len"]
    seen = [min(place + 1, window or length) for place in range(length)]
    share = sum(seen) / (length * (length + 1) / 2)
    name = "eval/valid/bits_per_byte"
    by_step = {str(line["step"]): round(line[name], 4) for line in point.logged() if name in line}
    about = dict(window=window, length=length, share=round(share, 4), seed=point.result.config["seed"])
    return [about | dict(bits=round(point.last[name], 4), by_step=by_step)]


def table(rows, paper):
    """A line a window."""
    full = mean([row for row in rows if not row["window"]], "bits")
    return [
        {
            "window": str(window or f"all {some[0]['length']}"),
            "pairs of all": f"{some[0]['share']:.1%}",
            "bits per byte": spread([row["bits"] for row in some], ".3f"),
            "above all": f"{mean(some, 'bits') - full:+.3f}",
        }
        for window, some in by(rows, "window").items()
    ]


def figure(rows, paper):
    """Bits against the window at the end, and against steps, means over the seeds."""
    windows = by(rows, "window")
    points = [(window or some[0]["length"], mean(some, "bits")) for window, some in windows.items()]
    curve = lambda some: [(int(step), mean([row["by_step"] for row in some], step)) for step in some[0]["by_step"]]
    curves = [Line(f"window {window}" if window else "all", curve(some)) for window, some in windows.items()]
    return [
        Panel("Bits per byte at the end", "window, in bytes", [Line("by window", points)], log_x=True),
        Panel("Bits per byte", "training step", curves),
    ]


def expect(rows, paper):
    """More sight is better, with less and less to gain, and at last nothing."""
    windows = by(rows, "window")
    bits = [mean(some, "bits") for some in windows.values()]
    gains = [earlier - later for earlier, later in zip(bits, bits[1:])]
    shown = ", ".join(f"{gain:.3f}" for gain in gains)
    least, *_, near, full = windows.values()
    seen = lambda some: f"a window of {some[0]['window']} of {full[0]['length']} bytes"
    above = lambda some: mean(some, "bits") - mean(full, "bits")
    says = lambda some: f"{above(some):+.3f} bits with {some[0]['share']:.0%} of the pairs"
    return [
        Expectation(f"{seen(near)} is within {NEAR} bits of all, above or below", abs(above(near)) < NEAR, says(near)),
        Expectation(f"{seen(least)} is more than {4 * NEAR:g} bits above all", above(least) > 4 * NEAR, says(least)),
        Expectation("each wider window is better", all(gain > 0 for gain in gains), f"gains of {shown} bits"),
        Expectation("each gain is less than the one before", gains == sorted(gains, reverse=True), f"{shown} bits"),
    ]


CLAIM = Claim(
    title="Windows of attention: quality against pairs",
    claim="""Beltagy et al., 2020 (arXiv 2004.05150, sec. 3.1), and Jiang et al., 2023 (arXiv 2310.06825, sec. 2): most
of what attention reads is near; layers of windows see farther than one of them, so that a window costs little quality
and, with n tokens, saves all but w n of the pairs.""",
    setup="""2 layers of attention and a perceptron, width 64, 4 heads, rotary positions, bytes of the Python standard
library's own source in rows of 128, 2000 steps of 16 rows, AdamW at a rate of 0.004 with warm-up; 65536 bytes held out.
The window is that of both layers; a byte sees the last w, itself among them, through both layers 2 w - 1. Two seeds; in
brackets the least and the greatest of both.""",
    sizes={
        "small": """The papers' models are larger, and compare windows at equal cost (Longformer's table 4) or give no
numbers of other windows (Mistral): only the trend is compared."""
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="""Validation bits per byte, means over the seeds: at the end against the window, the widest being all of
the row, and after each fifth of the run.""",
    expect=expect,
    remarks={
        "small": """The widest two are nearer to each other than the seeds of either, so that this run does not tell
which of them is better. At the first evaluation all of the row is the worst to look at, and at the end it is not: with
more to leave out a model begins more slowly. That may be what reversed the order in an earlier run of a tenth of the
bytes, 400 steps of 4 rows of 256. What is expected here, and how long it runs, was written down before this one ran.
The machine was busy, so that the times say little; run with
`XLA_FLAGS="--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"`, which compile faster."""
    },
)
