"""Seven architectures of equal size: bits per byte against tokens, FLOPs and seconds."""

import numpy as np

from arch import tree
from arch.train import experiment, utilization
from arch.train import state as states
from experiments.claim import Claim, Expectation
from experiments.figure import Line, Panel


def rows(point):
    """Sizes and costs of the model, and its bits per byte at each evaluation."""
    cfg, logged = experiment.from_dict(point.result.config), point.logged()
    parameters = tree.count(states.shapes(cfg.model.make()))
    flops = utilization.step_flops(cfg.model, cfg.batch_size, cfg.task.lengths(cfg.seq_len))
    bits = {str(line["step"]): line["eval/valid/bits_per_byte"] for line in logged if "eval/valid/loss" in line}
    return [
        dict(
            model=point.options["model"],
            parameters=parameters,
            met=parameters - cfg.model.idle_parameters(),
            tokens_a_step=cfg.batch_size * cfg.seq_len,
            flops_a_step=flops,
            seconds_a_step=min(line["perf/seconds_per_step"] for line in logged if "perf/seconds_per_step" in line),
            seed=cfg.seed,
            bits={step: round(value, 4) for step, value in bits.items()},
        )
    ]


def last(row):
    """Bits per byte at the end."""
    return list(row["bits"].values())[-1]


def curve(row, unit):
    """[(steps times what a step costs, bits)]."""
    return [(int(step) * row[unit], bits) for step, bits in row["bits"].items()]


def table(rows, paper):
    """A line a model."""
    return [
        {
            "model": row["model"],
            "parameters": f"{row['parameters']:,}",
            "a token meets": f"{row['met']:,}",
            "MFLOP a token": f"{row['flops_a_step'] / row['tokens_a_step'] / 1e6:.2f}",
            "ms a step": f"{1000 * row['seconds_a_step']:.0f}",
            "bits per byte": f"{last(row):.3f}",
        }
        for row in rows
    ]


def figure(rows, paper):
    """Bits against tokens, FLOPs, seconds."""
    units = {"tokens": "tokens_a_step", "training FLOPs": "flops_a_step", "seconds": "seconds_a_step"}
    lines = lambda unit: [Line(row["model"], curve(row, unit)) for row in rows]
    return [Panel("Validation bits per byte", name, lines(unit), log_x=True) for name, unit in units.items()]


def at(row, flops):
    """Bits after so many FLOPs, between the evaluations around them."""
    x, bits = zip(*curve(row, "flops_a_step"))
    return float(np.interp(flops, x, bits))


def expect(rows, paper):
    """Hybrids and state spaces keep up, sparse models are cheaper, approximations are behind."""
    found = {row["model"]: row for row in rows}
    bits = {name: last(row) for name, row in found.items()}
    shown = lambda *names: ", ".join(f"{name} {bits[name]:.3f}" for name in names)
    flops = curve(found["mixtral"], "flops_a_step")[-1][0]
    there = at(found["llama"], flops)
    return [
        Expectation(
            "Mamba-2 keeps up with LLaMA at equal tokens: within 0.02 bits, or better",
            bits["mamba2"] <= bits["llama"] + 0.02,
            shown("mamba2", "llama"),
        ),
        Expectation(
            "Jamba, the hybrid, is better than LLaMA and than Mamba-2 at equal tokens",
            bits["jamba"] < min(bits["llama"], bits["mamba2"]),
            shown("jamba", "llama", "mamba2"),
        ),
        Expectation(
            "Mixtral is better than LLaMA at equal FLOPs",
            bits["mixtral"] < there,
            f"mixtral {bits['mixtral']:.3f}, llama {there:.3f} after {flops:.2g} FLOPs",
        ),
        Expectation(
            "a window of a quarter of the row costs at most 0.05 bits",
            bits["longformer_type"] <= bits["llama"] + 0.05,
            shown("longformer_type", "llama"),
        ),
        Expectation(
            "Performer, which approximates the softmax, is behind LLaMA",
            bits["performer"] > bits["llama"],
            shown("performer", "llama"),
        ),
    ]


CLAIM = Claim(
    title="Equal size: loss against tokens, FLOPs and seconds",
    claim="""Gu and Dao, 2023 (arXiv 2312.00752, sec. 4.2.1 and fig. 4): a selective state space keeps up with the best
recipe of Transformers, at every size. Lieber et al., 2024 (arXiv 2403.19887, sec. 6.1): layers of both kinds are better
than either alone. Of the others theory expects that experts are better than a perceptron of equal FLOPs, that a window
costs little in short rows, and that random features are behind the softmax that they approximate.""",
    setup="""Seven families of `arch/families` with 10 d^2 parameters a layer or as near as their parts allow, and a
vocabulary whose table is input and output: LLaMA; Mixtral with 4 experts, of which a token has 2, in all as large as
LLaMA's perceptron; LLaMA with a window of a quarter of the row (Longformer's kind, causal); Performer with LLaMA's
perceptron and rotary positions; RWKV-4; Mamba-2; Jamba, one layer of four with attention and each second ffn with
experts. Same text, same order, AdamW with one rate for all, the cosine's end at 2 %. FLOPs are those that the result
requires (`arch/train/utilization.py`), forward and backward; seconds are the least that 2 % of the run's steps took on
average, times the steps: neither compilation nor evaluation is in them.""",
    sizes={
        "small": """0.9 million parameters, width 128, 4 layers (Mamba-2: 6), 2048 subwords of the Python standard
library's own source, 500 steps of 8 rows of 128 tokens at a rate of 0.004, which was tuned for none of them; one seed.
Mamba's figure has 125 million parameters and more on the Pile.""",
        "paper": """The width, depth, steps, batch and rate (of the improved recipe) of the smallest models in Mamba's
figure, on a corpus of the user's; with 10 d^2 parameters a layer instead of 12 and 32768 subwords.""",
    },
    rows=rows,
    table=table,
    figure=figure,
    caption="Bits per byte of the held-out text at each tenth of a run: the same evaluations over three costs.",
    expect=expect,
    remarks={
        "small": """512 000 tokens: what is early learned from near tokens counts most, and there the recurrences and
the window are ahead of attention over all of the row; Jamba ties with Mamba-2. What longer runs give this one does not
tell. Times are of a machine with other work, on which this one went first (a real-time priority, from LLaMA's 30th step
on); LLaMA's may be the less exact for it."""
    },
)
