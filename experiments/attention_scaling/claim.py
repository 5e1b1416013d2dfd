"""Time and memory of attention against the length: all pairs, and the patterns of Longformer and BigBird."""

from experiments.claim import Claim, Expectation, by, exponent
from experiments.figure import Line, Panel

NAMES = {
    "longformer": "Longformer's blocks",
    "bigbird": "BigBird's blocks",
    "dense": "all pairs, a chunk at a time",
    "reference": "all pairs at once",
}
FITTED = 8192
"""The length from which on exponents are fitted."""


def table(rows, paper):
    """Milliseconds by the length."""
    lines = {length: {"tokens": str(length)} for length in sorted(by(rows, "length"))}
    for row in rows:
        lines[row["length"]][f"{NAMES[row['form']]}, ms"] = f"{row['least_ms']:.0f}"
    return list(lines.values())


def figure(rows, paper):
    """Time and temporaries."""
    panel = lambda title, key: Panel(title, "tokens", [
        Line(NAMES[form], [(row["length"], row[key]) for row in some]) for form, some in by(rows, "form").items()
    ], log_x=True, log_y=True)  # fmt: skip
    return [panel("Milliseconds, forward and backward", "least_ms"), panel("MiB of temporaries", "temporary_mib")]


def expect(rows, paper):
    """Patterns are linear in time and memory; all pairs, as far as measured, are quadratic, and dearer in the end."""
    out, found = [], by(rows, "form")
    for form in ("longformer", "bigbird"):
        if len(found.get(form, ())) > 2:
            far = [row for row in found[form] if row["length"] >= FITTED]
            for what, key in (("time", "least_ms"), ("temporaries", "temporary_mib")):
                power = exponent((row["length"], row[key]) for row in far)
                says = f"the {what} of {NAMES[form]} grow{'s' * (what == 'time')} linearly"
                out.append(Expectation(says, power < 1.2, f"with power {power:.2f} of the length from {FITTED} on"))
    if "dense" in found:
        dense = {row["length"]: row["least_ms"] for row in found["dense"]}
        far = [(length, time) for length, time in dense.items() if length >= FITTED / 4]
        if len(far) > 2:
            power = exponent(far)
            out.append(Expectation("the time of all pairs grows quadratically", power > 1.7, f"with power {power:.2f}"))
        for form in ("longformer", "bigbird"):
            ahead = [row["length"] for row in found.get(form, ()) if row["least_ms"] < dense.get(row["length"], 0)]
            most = max(dense)
            says = f"{NAMES[form]} take less time than all pairs at {most} tokens"
            out.append(Expectation(says, most in ahead, f"they do at {', '.join(map(str, ahead)) or 'no length'}"))
    return out


CLAIM = Claim(
    title="Sparse attention: time and memory against the length",
    claim="""Beltagy et al., 2020 (arXiv 2004.05150), and Zaheer et al., 2020 (arXiv 2007.14062): attention over a
window, some global tokens and, of BigBird, some random blocks takes time and memory linear in the length; from some
length on it is faster than attention over all pairs.""",
    setup="""`benchmarks/attention_scaling.py`: 4 heads of 64 channels, one row, forward and backward in float32 on two
CPU cores, each pattern with a window of 512 tokens (Longformer) or three blocks (BigBird) and 64 global tokens, in
blocks of 64 tokens, beside all pairs a chunk at a time and all pairs at once. Times are the least of several runs. The
runs take some ten minutes; the point of the sweep reads those that `benchmarks/results/attention_scaling-cpu.json` keeps.""",
    sizes={"small": """The papers draw time and memory of kernels on GPUs; only the exponents are compared, and only
from 8192 tokens on, where the pattern's own overhead is small."""},
    table=table,
    figure=figure,
    caption="Time and temporaries against the length, both axes logarithmic.",
    expect=expect,
    verdict="reproduced",
    remarks={
        "small": """Both patterns take less time than all pairs at every length that was measured, from 1024 tokens on:
if there is a length from which on they are faster, it is a shorter one."""
    },
)
