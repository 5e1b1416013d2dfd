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
    """The sizes of the published configs, and the order of the times."""
    kinds = by(rows, "what")
    ours = {(row["model"], row["kv_heads"]): row["bytes"] for row in kinds["size"]}
    other = [row["model"] for row in paper if ours.get((row["model"], row["kv_heads"])) != row["bytes"]]
    out = [Expectation("caches have the bytes that follow from the published configs", not other,
                       f"all {len(paper)}" if not other else f"not {', '.join(other)}")]  # fmt: skip
    times = {row["kv_heads"]: row["least_ms"] for row in kinds["time"]}
    shown = ", ".join(f"{time:.1f} ms with {heads}" for heads, time in times.items())
    most, some, one = times.values()
    out.append(Expectation("a token takes less time with fewer key-value heads", most > some > one, shown))
    saved = (most - some) / (most - one) if most > one else 0.0
    return [*out, Expectation("grouped heads save most of what one head saves", saved > 0.5, f"{saved:.0%} of it")]


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
trusted, not their ratios."""
    },
)
