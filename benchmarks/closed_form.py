"""The closed form's memory of a training step beside what libtpu sets aside for it, on configs of all families.

python -m benchmarks.closed_form [state | told] [fitted | held_out | 'CASE' ...]

A case is FAMILY.PRESET, a topology, the rematerialisation, and sizes: `rows` of a device and their `length`, the axes
of the mesh, and where they are not as published or as in `benchmarks/plan.py` the `periods` of layers, the `chunk` of
tokens of a row whose logits exist at a time (0: all), and `micro` batches. `compiled` is of libtpu's own log: as soon
as it has assigned all buffers it is stopped, since generating code is most of its time and changes no buffer.
`persistent` are the arguments, `temporaries` the heap in the main memory. `closed_form` has weights and optimizer for
the first, gradients, activations and gathered weights for the second; `ratio` is the closed form over what was
compiled. FITTED were looked at while `arch.plan.closed_form` was written; HELD_OUT were not. The last two of FITTED
were held out until it missed them by more than a quarter; their logs showed how arrays lie that kernels read
(`arch.plan.lanes`). By that rule all others were compared anew, and then the last three of HELD_OUT compiled. With
`state` a program is compiled in the step's place that has its arguments and does nothing: its row has `persistent`
alone. With `told` nothing is, and what was kept is compared anew. Needs libtpu, no TPU.
"""

import os
import re
import subprocess
import sys

import jax

from arch.layers import token_loss
from arch.models import encoder_decoder
from arch.plan import closed_form, lowering, topology
from arch.sharding import mesh as meshes
from benchmarks import measure
from benchmarks import plan as planning

FITTED = (
    "llama.smollm2_135m v5e:2x2 full rows=2 length=1024 fsdp=4",
    "gpt.gpt2_small v5e:2x2 none rows=4 length=1024 fsdp=4",
    "gpt_neox.pythia_410m v5e:2x4 none rows=1 length=2048 fsdp=4 tensor=2",
    "mamba2_lm.mamba2_130m v5e:2x2 full rows=2 length=2048 fsdp=4",
    "llama.tinyllama_1_1b v5e:2x4 full rows=1 length=2048 fsdp=8",
    "bert.bert_base v5e:2x2 none rows=8 length=512 fsdp=4",
    "t5.t5_base v5e:2x2 full rows=4 length=512 fsdp=4",
    "mixtral.mixtral_8x7b v5e:2x4 full rows=1 length=2048 expert=8 periods=1",
    "gpt_neox.pythia_160m v5e:2x2 dots rows=8 length=2048 fsdp=4",
    "performer.performer_trembl_causal v5e:2x2 full rows=1 length=8192 fsdp=4",
)
HELD_OUT = (
    "gpt.gpt2_medium v5e:2x2 full rows=4 length=1024 fsdp=4",
    "llama.smollm2_135m v5e:2x2 dots rows=4 length=2048 data=2 fsdp=2",
    "rwkv.rwkv4_169m v5e:2x2 full rows=2 length=1024 fsdp=4",
    "longformer.longformer_base v5e:2x2 full rows=1 length=4096 fsdp=4",
    "griffin.recurrentgemma_2b v5e:2x4 full rows=1 length=2048 fsdp=8",
    "gpt.gpt2_large v5e:2x4 full rows=2 length=1024 fsdp=8",
    "gpt.gpt3_medium v5e:2x4 none rows=2 length=2048 data=2 fsdp=4",
    "gpt.gpt3_xl v5e:4x4 dots rows=2 length=2048 fsdp=16",
    "gpt.gpt3_2_7b v5p:2x2x1 full rows=2 length=2048 fsdp=4",
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
    "t5.t5_large v5e:2x4 full rows=8 length=512 fsdp=8",
    "t5.t5_v1_1_base v5e:2x2 none rows=4 length=512 fsdp=4",
    "transformer.transformer_big v5e:2x2 none rows=16 length=256 data=2 fsdp=2",
    "gpt_neox.pythia_70m v5e:2x2 none rows=4 length=2048 fsdp=4",
    "gpt.gpt3_small v5e:2x2 dots rows=4 length=2048 fsdp=4",
    "bloom.bloom_560m v5e:2x4 dots rows=2 length=2048 fsdp=8",
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


def told(prepared: lowering.Run) -> dict[str, float]:
    """What the closed form tells, in bytes of a device."""
    found = closed_form.estimate(prepared, prepared.mesh.devices.flat[0].device_kind)
    parts = dict(gradients=found.memory.gradients, activations=found.memory.activations, gathered=found.gathered)
    persistent = found.memory.parameters + found.memory.optimizer
    return dict(persistent=persistent, temporaries=found.total - persistent, parts=parts)


LOGS = dict(TPU_VMODULE="buffer_assignment=2", TPU_MIN_LOG_LEVEL="0", TPU_STDERR_LOG_LEVEL="0", TPU_LOG_DIR="disabled")
"""What makes libtpu tell its buffers."""
COMPILE = "compile"
"""The command of the process that is stopped."""
ASSIGNED = "Buffer assignment done."
SIZE = re.compile(r"allocation \d+: size (\d+), page 0, (preallocated-temp|parameter \d+)")


def assigned(case: str) -> dict[str, int]:
    """Bytes of the arguments and of the heap that libtpu assigns, by its log."""
    command = [sys.executable, "-m", "benchmarks.closed_form", COMPILE, case]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | LOGS) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if ASSIGNED in line:
                process.kill()
                break
    return sizes_of(lines)


def sizes_of(lines: list[str]) -> dict[str, int]:
    """Of a log's lines: each argument once, and the last size of the heap.

    Raises:
      ValueError: it ends before all buffers are assigned.
    """
    if not lines or ASSIGNED not in lines[-1]:
        raise ValueError(f"libtpu must say {ASSIGNED!r}, and its log ends in: {''.join(lines[-20:])}")
    found = {match[2]: int(match[1]) for match in map(SIZE.search, lines) if match}
    heap = found.pop("preallocated-temp", 0)
    return dict(persistent=sum(found.values()), temporaries=heap)


def compared(compiled: dict, closed: dict) -> dict:
    """Both accounts of a case, in bytes of a device, and their ratios."""
    ratio = {name: round(closed[name] / compiled[name], 4) for name in compiled}
    return dict(compiled=compiled, closed_form=closed, ratio=ratio)


def arguments(prepared: lowering.Run) -> dict[str, int]:
    """Bytes of the step's arguments, by a program that has them and does nothing."""
    state, rows = prepared.plan.abstract, lowering.batch(prepared.cfg, prepared.mesh)
    program = jax.jit(lambda *arguments: 0, keep_unused=True).lower(state, rows).compile()
    return dict(persistent=program.memory_analysis().argument_size_in_bytes)


def main(*wanted: str) -> None:
    """Adds a row for each case to benchmarks/results/closed_form.json as soon as it is there."""
    jax.config.update("jax_platforms", "cpu")
    how, wanted = (wanted[0], wanted[1:]) if wanted[:1] in (("state",), ("told",), (COMPILE,)) else ("", wanted)
    for case in [case for each in wanted or LISTS for case in LISTS.get(each, (each,))]:
        if how == COMPILE:
            return lowering.train(run(case)[0]).compile()
        before, (prepared, _) = measure.kept("closed_form", (case,)).get("compiled", {}), run(case)
        found = {"": lambda: assigned(case), "state": lambda: arguments(prepared), "told": dict}[how]()
        measure.add("closed_form", (case,), compared(before | found, told(prepared)))


if __name__ == "__main__":
    main(*sys.argv[1:])
