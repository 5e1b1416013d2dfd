"""What a window of attention costs in quality: bits per byte against the window, and the pairs that it visits."""

from experiments.claim import Claim, Expectation
from experiments.figure import Line, Panel


def rows(point):
    """Bits per byte, and the share of a causal row's pairs that are within the window."""
    window, length = int(point.options["window"]), point.result.config["seq_len"]
    seen = [min(place + 1, window or length) for place in range(length)]
    share = sum(seen) / (length * (length + 1) / 2)
    bits = round(point.last["eval/valid/bits_per_byte"], 4)
    return [dict(window=window, length=length, share=round(share, 4), bits=bits, seed=point.result.config["seed"])]


def table(rows, paper):
    """A line a window."""
    full = next(row for row in rows if not row["window"])
    return [
        {
            "window": str(row["window"] or f"all {row['length']}"),
            "pairs of all": f"{row['share']:.1%}",
            "bits per byte": f"{row['bits']:.3f}",
            "above all": f"{row['bits'] - full['bits']:+.3f}",
        }
        for row in rows
    ]


def figure(rows, paper):
    """Bits against the window."""
    points = [(row["window"] or row["length"], row["bits"]) for row in rows]
    return [Panel("Bits per byte", "window, in bytes", [Line("attention", points)], log_x=True)]


def expect(rows, paper):
    """More sight is better, with less and less to gain."""
    bits = [row["bits"] for row in rows]
    gains = [earlier - later for earlier, later in zip(bits, bits[1:])]
    shown = ", ".join(f"{gain:.3f}" for gain in gains)
    *_, near, full = rows
    return [
        Expectation("each wider window is better", all(gain > 0 for gain in gains), f"gains of {shown} bits"),
        Expectation("each gain is less than the one before", gains == sorted(gains, reverse=True), f"{shown} bits"),
        Expectation(
            f"a window of {near['window']} of {full['length']} tokens is within 0.05 bits of all",
            near["bits"] - full["bits"] < 0.05,
            f"{near['bits'] - full['bits']:+.3f} bits with {near['share']:.0%} of the pairs",
        ),
    ]


CLAIM = Claim(
    title="Windows of attention: quality against pairs",
    claim="""Beltagy et al., 2020 (arXiv 2004.05150, sec. 3.1), and Jiang et al., 2023 (arXiv 2310.06825, sec. 2): most
of what attention reads is near; layers of windows see farther than one of them, so that a window costs little quality
and, with n tokens, saves all but w n of the pairs.""",
    setup="""2 layers of attention and a perceptron, width 64, 4 heads, rotary positions, bytes of the Python standard
library's own source in rows of 256, 400 steps of 4 rows, AdamW at a rate of 0.004; 32768 bytes held out. The window is
that of both layers; a token sees the last w, itself among them.""",
    sizes={
        "small": """The papers' models are larger, and compare windows at equal cost (Longformer's table 4) or give no
numbers of other windows (Mistral): only the trend is compared. One seed."""
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="Validation bits per byte against the window; the widest is all of the row.",
    expect=expect,
    remarks={
        "small": """The order is the reverse of the expected one: after 400 steps of four rows these models are still
far from using what is far, and a narrow window is what they would learn to look at first; wider ones have more to leave
out. What a window costs a trained model this run does not tell, and longer ones have not been made. One seed; run with
`XLA_FLAGS="--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"`, which compile faster."""
    },
)
