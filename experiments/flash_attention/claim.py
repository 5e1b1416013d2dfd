"""Attention a chunk at a time beside attention over all pairs at once: values, gradients and temporaries."""

from experiments.claim import Claim, Expectation, exponent
from experiments.figure import Line, Panel
from experiments.flash_attention.config import FORMS

FITTED, CLOSE = 2048, 1e-5
"""From which length on exponents are fitted; differences up to which float32 values count as equal."""


def table(rows, paper):
    """Temporaries in MiB, and the differences where they were measured."""
    return [
        {"tokens": str(row["length"])}
        | {f"{form}, MiB": f"{row[form] / 2**20:.1f}" for form in FORMS}
        | {"times less": f"{row['all pairs'] / row['chunked']:.0f}"}
        | {
            f"largest difference of {name}": f"{row[f'{name}_off']:.1e}"
            for name in ("output", "gradient")
            if f"{name}_off" in row
        }
        for row in rows
    ]


def curve(rows, form):
    """Bytes of temporaries by length."""
    return [(row["length"], row[form]) for row in rows]


def figure(rows, paper):
    """One panel, a line a form, and what queries, keys, values, output and gradients take themselves."""
    lines = [Line(form, curve(rows, form)) for form in FORMS]
    arrays = Line("inputs, output and gradients", curve(rows, "arrays"), dashed=True)
    return [Panel("Bytes of temporaries, forward and backward", "tokens", [*lines, arrays], log_x=True, log_y=True)]


def expect(rows, paper):
    """Equal, linear, and less."""
    far = [row for row in rows if row["length"] >= FITTED]
    chunked, pairs = (exponent(curve(far, form)) for form in FORMS)
    off = max(row[name] for row in rows if "output_off" in row for name in ("output_off", "gradient_off"))
    last = rows[-1]
    return [
        Expectation("values and gradients are those of all pairs", off < CLOSE, f"at most {off:.1e} off"),
        Expectation("temporaries of chunks grow linearly", chunked < 1.2, f"with power {chunked:.2f} of the length"),
        Expectation("those of all pairs grow quadratically", pairs > 1.8, f"with power {pairs:.2f} of the length"),
        Expectation(
            "chunks need at least 20 times less memory at the greatest length, as the abstract's figure has it",
            last["all pairs"] / last["chunked"] >= 20,
            f"{last['all pairs'] / last['chunked']:.0f} times at {last['length']}",
        ),
    ]


CLAIM = Claim(
    title="FlashAttention: exact, in memory linear in the length",
    claim="""Dao et al., 2022 (arXiv 2205.14135, theorem 1): attention computed a block at a time, its softmax kept by
its row sums and its pairs computed once more in the backward pass, is exactly attention, and needs memory linear in the
length instead of quadratic.""",
    setup="""Causal attention with the heads of GPT-2 medium, which are the paper's (16 heads of 64 channels, one row,
in float32), forward and backward: `arch/ops/chunked_attention.py`, which follows the paper in XLA's own code, and
`arch/ops/attention.py`, all pairs at once. Temporaries are those of XLA's plan of the compiled program; differences are
the largest of an output and of a gradient, over the root mean square of it.""",
    sizes={
        "small": """The paper measures a CUDA kernel of its own on an A100, its time and its memory traffic; neither is
measured here, and nothing is said about them."""
    },
    table=table,
    figure=figure,
    caption="Temporaries of the compiled program against the length.",
    expect=expect,
    verdict="reproduced",
    remarks={
        "small": """The first expectation asks of the greatest of a million differences that it is below 1e-5 of the
root mean square, written before the run; what was found is a hundred roundings of float32, in sums of a thousand terms.
Up to 1024 tokens chunks meet all keys at once, beyond that blocks of both (`MOST_CHUNKS` of the file), so that
memory goes up by steps."""
    },
)
