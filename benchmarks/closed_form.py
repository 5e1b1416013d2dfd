"""The closed form's memory of a training step beside what libtpu plans for it, on configs of several families.

python -m benchmarks.closed_form [CASE ...]

Published sizes with `LAYERS` periods, rows of 2048 tokens, on a described v5p:2x2x1 with fsdp=4; a case is
FAMILY.PRESET, then the rematerialisation, then the rows of a device. `ratio` is the closed form over what was compiled:
of `persistent`, weights and optimizer over the arguments, and of `temporaries`, gradients, activations and gathered
weights over what the step needs at its peak beside its arguments. No case was looked at when the constants of
`arch.plan.closed_form` were chosen. Needs libtpu, no TPU.
"""

import sys

from arch.models import encoder_decoder
from arch.plan import account, closed_form, lowering, topology
from benchmarks import measure
from benchmarks import plan as planning

LAYERS, LENGTH, WHERE, SIZES = 4, 2048, "v5p:2x2x1", dict(fsdp=4)
CASES = (
    "llama.llama2_7b full 1",
    "llama.llama_7b none 2",
    "llama.llama3_2_1b full 4",
    "mistral.mistral_7b dots 1",
    "falcon.falcon_7b full 1",
    "gpt_neox.pythia_1b none 2",
    "bloom.bloom_1_1b full 2",
    "gpt.gpt2_large dots 4",
    "gpt.gpt3_xl none 1",
    "rwkv.rwkv4_1_5b full 2",
    "mamba2_lm.mamba2_370m none 2",
    "mamba_lm.mamba_370m full 2",
    "bert.bert_large none 4",
    "t5.t5_large full 2",
    "palm.palm_8b full 1",
)


def few(model):
    """The model with so many periods."""
    fields = ("encoder", "decoder") if isinstance(model, encoder_decoder.Config) else ("layers",)
    return model.replace(**{field: getattr(model, field).replace(repeats=LAYERS) for field in fields})


def row(case: str) -> dict:
    """Both accounts of a case, in bytes of a device, and their ratios."""
    name, remat, rows = case.split()
    where = topology.parse(WHERE)
    cfg = planning.run(few(planning.preset(name, 0, remat)), where.size, length=LENGTH, rows=int(rows), **SIZES)
    run = lowering.prepare(cfg, planning.described(WHERE, SIZES))
    found = account.of(lowering.train(run), run, where, length=LENGTH)
    told = closed_form.estimate(run)
    if "refused" in found:
        return dict(refused=found["refused"], closed_form=told.total)
    sizes = found["memory"]
    compiled = dict(persistent=sizes["arguments"], temporaries=sizes["peak"] - sizes["arguments"])
    state = told.memory.parameters + told.memory.optimizer
    closed = dict(persistent=state, temporaries=told.memory.temporary + told.gathered)
    parts = dict(gradients=told.memory.gradients, activations=told.memory.activations, gathered=told.gathered)
    ratio = {key: round(closed[key] / compiled[key], 4) for key in closed}
    counted = {key: found[key] for key in ("flops", "bytes", "received", "uncounted") if key in found}
    told = dict(flops=told.flops, bytes=told.traffic, received=told.received)
    return dict(compiled=compiled | counted, closed_form=closed | parts | told, ratio=ratio)


def main(*cases: str) -> None:
    """Adds a row for each case to benchmarks/results/closed_form.json."""
    for case in cases or CASES:
        measure.add("closed_form", (case,), row(case))


if __name__ == "__main__":
    main(*sys.argv[1:])
