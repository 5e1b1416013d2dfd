"""A plan as text, in Markdown: what it needs, what it takes, what bounds it, whether it fits."""

from collections.abc import Iterator
from typing import Any

GIB, TERA, GIGA = 2**30, 1e12, 1e9


def text(found: dict[str, Any]) -> str:
    """The whole plan."""
    return "\n\n".join("\n".join(part) for part in (_head(found), _memory(found), *_steps(found), _end(found)) if part)


def _head(found) -> Iterator[str]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items()) or "one device"
    parameters = found["parameters"]
    yield f"# Plan for {found['topology']}, {found['devices']} devices {found['device']!r}"
    yield ""
    if not found["compiled"]:
        yield "By the closed form alone: programs for GPUs are not compiled here, and nothing was run."
    yield f"Mesh: {mesh}. {found['batch_size']:,} rows of {found['seq_len']:,} tokens a step, remat {found['remat']!r}."
    yield f"Parameters: {parameters['total']:,}, of which a token meets {parameters['active']:,}."


def _memory(found) -> Iterator[str]:
    state, closed, train = found["state"], found["closed_form"], found.get("train", {})
    yield "## Memory of a device, GiB"
    yield ""
    yield "| part | compiled | closed form |"
    yield "|---|---|---|"
    for name, size in state.items():
        yield f"| {name} | {_gib(size)} | {_gib(size)} |"
    if "memory" in train:
        sizes = train["memory"]
        rest = sizes["arguments"] - sum(state.values())
        yield f"| batch, padding | {_gib(rest)} | |"
        yield f"| temporaries at the peak | {_gib(sizes['peak'] - sizes['arguments'])} | {_gib(_temporary(closed))} |"
    for name in ("gradients", "activations", "gathered"):
        yield f"| of them {name} | | {_gib(closed[name])} |"
    if "collective_buffer" in train:
        yield f"| of them the largest collective's | {_gib(train['collective_buffer'])} | |"
    peak = _gib(train["memory"]["peak"]) if "memory" in train else ""
    yield f"| all, at the peak | {peak} | {_gib(closed['total'])} |"
    yield f"| what the device has | {_gib(found['capacity'])} | {_gib(found['capacity'])} |"


def _temporary(closed) -> int:
    return closed["gradients"] + closed["activations"] + closed["gathered"]


def _steps(found) -> Iterator[list[str]]:
    if "train" in found:
        yield list(_step("Train step", found["train"]))
    else:
        closed = found["closed_form"]
        yield list(_work("Train step, closed form", closed["flops"], closed["bytes"], closed["seconds"]))
    if "decode" in found:
        title = f"A step of decoding, {found['batch_size']:,} rows behind {found['seq_len']:,} tokens"
        yield list(_step(title, found["decode"]))


def _step(title, train) -> Iterator[str]:
    if "refused" in train:
        yield f"## {title}"
        yield ""
        yield f"Refused by the compiler: {train['refused']}"
        return
    if "uncounted" in train:
        yield f"## {title}"
        yield ""
        yield f"Compiled; not counted: {train['uncounted']}"
        return
    yield from _work(title, train["flops"], train["bytes"], train["seconds"])
    if train["collectives"]:
        yield ""
        yield "| collective | axes | over | a step | GB received |"
        yield "|---|---|---|---|---|"
    for row in train["collectives"]:
        axes = ", ".join(row["axes"]) or "none"
        yield f"| {row['kind']} | {axes} | {row['link']} | {row['count']:g} | {row['received'] / GIGA:.3f} |"
    yield ""
    yield f"It waits for {train['bound']}."
    if "tokens_per_second" in train:
        yield f"At most {train['tokens_per_second']:,.0f} tokens/s."


TERMS = {"work_s": "operations one behind the other", "memory_s": "all memory traffic", "links_s": "links",
         "between_s": "between slices", "step_s": "the step, at least"}  # fmt: skip


def _work(title, flops, traffic, seconds) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield f"Of a device: {flops / TERA:.4g} TFLOP in matrix products, {traffic / GIGA:.4g} GB read and written."
    yield ""
    yield "| | ms |"
    yield "|---|---|"
    for name, value in seconds.items():
        yield f"| {TERMS[name]} | {1e3 * value:.4g} |"


def _end(found) -> Iterator[str]:
    yield "## Verdict"
    yield ""
    yield "It fits." if found["fits"] else "It does not fit."
    if "step_seconds" in found:
        rate = f"At most {found['tokens_per_second']:,.0f} tokens/s, MFU at most {100 * found['mfu_bound']:.1f} %"
        cost = found.get("cost_per_billion_tokens")
        yield rate + (f", at least {cost:,.2f} a billion tokens." if cost else ".")
    if "would_fit" in found:
        rows = found["would_fit"]
        fits = any(row["fits"] for row in rows)
        yield "By the closed form it would fit with" if fits else "By the closed form no change of these is enough:"
        for row in rows:
            yield f"- `{' '.join(row['overrides'])}`: {_gib(row['total'])} GiB"


def _gib(size: float) -> str:
    return f"{size / GIB:.3f}"
