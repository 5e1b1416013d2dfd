"""The closed form's memory of a training step beside what libtpu plans for it, on configs of all families.

python -m benchmarks.closed_form [fitted | held_out | 'CASE' ...]

A case is FAMILY.PRESET, a topology, the rematerialisation, and sizes: `rows` of a device and their `length`, the axes of
the mesh, and where they are not as published or as in `benchmarks/plan.py` the `periods` of layers, the `chunk` of
tokens of a row whose logits exist at a time (0: all), and `micro` batches. `ratio` is the closed form over what was
compiled: of `persistent`, weights and optimizer over the arguments, and of `temporaries`, gradients, activations and
gathered weights over what the step needs at its peak beside its arguments. FITTED were looked at while
`arch.plan.closed_form` was written, HELD_OUT were not: it stayed as it was when they were compiled. Needs libtpu, no TPU.
"""

import sys
import time

from arch.layers import token_loss
from arch.models import encoder_decoder
from arch.plan import account, closed_form, lowering, topology
from arch.sharding import mesh as meshes
from benchmarks import measure
from benchmarks import plan as planning

FITTED = (
    "gpt.gpt2_small v5e:2x2 none rows=4 length=1024 fsdp=4",
    "gpt.gpt2_medium v5e:2x2 full rows=4 length=1024 fsdp=4",
    "llama.smollm2_135m v5e:2x2 dots rows=4 length=2048 data=2 fsdp=2",
    "llama.tinyllama_1_1b v5e:2x4 full rows=1 length=2048 fsdp=8",
    "gpt_neox.pythia_410m v5e:2x4 none rows=1 length=2048 fsdp=4 tensor=2",
    "bert.bert_base v5e:2x2 none rows=8 length=512 fsdp=4",
    "mamba2_lm.mamba2_130m v5e:2x2 full rows=2 length=2048 fsdp=4",
    "rwkv.rwkv4_169m v5e:2x2 full rows=2 length=1024 fsdp=4",
    "t5.t5_base v5e:2x2 full rows=4 length=512 fsdp=4",
    "longformer.longformer_base v5e:2x2 full rows=1 length=4096 fsdp=4",
    "mixtral.mixtral_8x7b v5e:2x4 full rows=1 length=2048 expert=8 periods=1",
    "griffin.recurrentgemma_2b v5e:2x4 full rows=1 length=2048 fsdp=8",
)
HELD_OUT = (
    "gpt.gpt2_large v5e:2x4 full rows=2 length=1024 fsdp=8",
    "gpt.gpt3_medium v5e:2x4 none rows=2 length=2048 data=2 fsdp=4",
    "gpt.gpt3_xl v5e:4x4 dots rows=2 length=2048 fsdp=16",
    "gpt.gpt3_2_7b v5p:2x2x1 full rows=2 length=2048 fsdp=4",
    "gpt_neox.pythia_160m v5e:2x2 dots rows=8 length=2048 fsdp=4",
    "gpt_neox.pythia_1_4b v5e:2x4 full rows=4 length=2048 fsdp=8",
    "gpt_neox.pythia_2_8b v5e:4x4 full rows=2 length=2048 fsdp=8 tensor=2",
    "llama.smollm2_135m v5e:2x2 none rows=2 length=2048 fsdp=4 micro=2",
    "llama.llama3_2_1b v5e:2x4 full rows=2 length=4096 fsdp=8",
    "llama.llama2_7b v5p:2x2x2 dots rows=1 length=4096 fsdp=8",
    "llama.llama2_13b v5p:2x2x2 full rows=1 length=4096 fsdp=4 tensor=2",
    "mistral.mistral_7b v5p:2x2x1 full rows=2 length=8192 fsdp=4",
    "falcon.falcon_7b v5p:2x2x1 dots rows=1 length=2048 fsdp=4",
    "falcon.falcon_rw_1b v5e:2x4 full rows=2 length=2048 fsdp=8",
    "bloom.bloom_560m v5e:2x4 full rows=4 length=2048 fsdp=8",
    "palm.palm_8b v5p:2x2x2 full rows=1 length=2048 fsdp=8",
    "mixtral.mixtral_8x7b v5p:2x2x4 full rows=1 length=4096 fsdp=2 expert=8",
    "qwen_moe.qwen1_5_moe_a2_7b v5p:2x2x2 full rows=1 length=4096 fsdp=2 expert=4",
    "deepseek.deepseek_v2_lite v5p:2x2x2 full rows=1 length=4096 expert=8",
    "switch_transformer.switch_base_8 v5e:2x4 full rows=4 length=512 expert=8",
    "mamba_lm.mamba_370m v5e:2x4 full rows=1 length=2048 fsdp=8",
    "mamba2_lm.mamba2_370m v5e:2x4 none rows=1 length=2048 fsdp=8",
    "mamba2_lm.mamba2_1_3b v5e:2x4 full rows=2 length=4096 fsdp=8",
    "rwkv.rwkv4_430m v5e:2x4 full rows=4 length=1024 fsdp=8",
    "rwkv7_lm.rwkv7_0_4b v5e:2x4 full rows=1 length=2048 fsdp=8",
    "retnet.retnet_1_3b v5e:2x4 full rows=2 length=2048 fsdp=8",
    "griffin.recurrentgemma_9b v5p:2x2x2 full rows=1 length=4096 fsdp=8",
    "jamba.jamba_v0_1 v5p:2x2x4 full rows=1 length=2048 expert=16 periods=2",
    "bert.bert_large v5e:2x4 full rows=8 length=512 fsdp=8",
    "roberta.roberta_base v5e:2x2 dots rows=16 length=512 data=4",
    "longformer.longformer_large v5e:2x4 full rows=1 length=4096 fsdp=8",
    "sparse_transformer.sparse_transformer_enwik8 v5e:2x2 full rows=1 length=12288 fsdp=4",
    "performer.performer_trembl_causal v5e:2x2 full rows=1 length=8192 fsdp=4",
    "t5.t5_large v5e:2x4 full rows=8 length=512 fsdp=8",
    "t5.t5_v1_1_base v5e:2x2 none rows=4 length=512 fsdp=4",
    "transformer.transformer_big v5e:2x2 none rows=16 length=256 data=2 fsdp=2",
)
LISTS = dict(fitted=FITTED, held_out=HELD_OUT)


def fewer(model, periods: int):
    """The model with so many periods; as it is for 0."""
    fields = ("encoder", "decoder") if isinstance(model, encoder_decoder.Config) else ("layers",)
    return model.replace(**{field: getattr(model, field).replace(repeats=periods) for field in fields if periods})


def run(case: str) -> tuple[lowering.Run, topology.Topology]:
    """What a case says, on its topology."""
    name, text, remat, *pairs = case.split()
    sizes = {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
    model = fewer(planning.preset(name, 0, remat), sizes.pop("periods", 0))
    where, chunk, micro = topology.parse(text), sizes.pop("chunk", planning.CHUNK), sizes.pop("micro", 1)
    cfg = planning.run(model, where.size, **sizes)
    mesh = meshes.make(cfg.mesh, topology.devices(where))
    loss = token_loss.Config(chunk_tokens=chunk * meshes.batch_shards(mesh))
    return lowering.prepare(cfg.replace(loss=loss, micro_batches=micro), mesh), where


def closed(found: closed_form.Estimate) -> dict[str, float]:
    """What the closed form tells, in bytes of a device and FLOPs."""
    parts = dict(gradients=found.memory.gradients, activations=found.memory.activations, gathered=found.gathered)
    persistent = found.memory.parameters + found.memory.optimizer
    told = dict(persistent=persistent, temporaries=found.total - persistent, flops=found.flops)
    return told | dict(parts=parts)


def row(case: str) -> dict:
    """Both accounts of a case, in bytes of a device, and their ratios."""
    prepared, where = run(case)
    start = time.process_time()
    found = account.of(lowering.train(prepared), prepared, where, length=prepared.cfg.seq_len)
    seconds, told = time.process_time() - start, closed(closed_form.estimate(prepared))
    if "refused" in found:
        return dict(refused=found["refused"], closed_form=told)
    sizes = found["memory"]
    compiled = dict(persistent=sizes["arguments"], temporaries=sizes["peak"] - sizes["arguments"])
    compiled |= dict(memory=sizes) | {key: found[key] for key in ("flops", "uncounted") if key in found}
    ratio = {key: round(told[key] / compiled[key], 4) for key in told if key in compiled}
    return dict(compiled=compiled, closed_form=told, ratio=ratio, compile_cpu_s=round(seconds))


def main(*wanted: str) -> None:
    """Adds a row for each case to benchmarks/results/closed_form.json as soon as it is there."""
    for case in [case for each in wanted or LISTS for case in LISTS.get(each, (each,))]:
        measure.add("closed_form", (case,), row(case))


if __name__ == "__main__":
    main(*sys.argv[1:])
