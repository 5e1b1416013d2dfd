"""A training step on four stages as libtpu compiles it for TPUs that are not here: GPipe beside 1F1B.

    python -m benchmarks.pipeline_plan llama.llama3_2_1b 1f1b 8     # one row; needs libtpu, no TPU

On v5e:2x4, `stage=4 fsdp=2`, with so many micro-batches of a row of 2048 tokens a shard, so that a batch grows with
their number; float32 weights and moments (AdamW), bfloat16 arithmetic, full rematerialisation. `small` is a model of 16
layers and 15 million parameters. Of each is kept what a device needs and does, and the least time of its step
(`arch/plan`), of which `bubble` is idle: a stage computes then, too, and nothing of that is kept. `kept` are the bytes
of layers' inputs that the schedule keeps for backward turns to come, as in `benchmarks.pipeline_memory`.
"""

import sys

import jax

from arch.families import llama
from arch.layers import token_loss
from arch.plan import plan as plans
from arch.plan import topology
from arch.sharding import one_forward_one_backward, pipeline
from benchmarks import measure
from benchmarks import plan as whole

jax.config.update("jax_platforms", "cpu")

TOPOLOGY, STAGES, SHARDS, LENGTH = "v5e:2x4", 4, 2, 2048
SMALL = dict(vocab_size=2048, embed_dim=256, hidden_dim=768, num_heads=2, num_layers=16)


def config(name: str, schedule: str, micro_batches: int):
    """The run, of a row a shard in each micro-batch."""
    model = llama.compose(**SMALL).replace(dtype="bfloat16") if name == "small" else whole.preset(name)
    how = pipeline.Config(schedule=schedule, micro_batches=micro_batches)
    model = model.replace(layers=model.layers.replace(remat="full", pipeline=how))
    rows = micro_batches // STAGES
    cfg = whole.run(model, STAGES * SHARDS, length=LENGTH, rows=rows, stage=STAGES, fsdp=SHARDS)
    return cfg.replace(loss=token_loss.Config(chunk_tokens=whole.CHUNK * SHARDS))


def kept(cfg) -> int:
    """Bytes of a device: of the input of a layer (GPipe) or a stage (1F1B), as many as the schedule keeps."""
    how, width = cfg.model.layers.pipeline, cfg.model.embed_dim
    in_gpipe = how.ticks(STAGES) * cfg.model.layers.repeats // STAGES
    count = one_forward_one_backward.room(STAGES) if how.schedule == "1f1b" else in_gpipe
    return count * 2 * LENGTH * width


def main(name: str, schedule: str, micro_batches: str) -> None:
    """Compiles, and adds the row to benchmarks/results/pipeline_plan.json."""
    cfg, where = config(name, schedule, int(micro_batches)), topology.parse(TOPOLOGY)
    found = plans.plan(cfg, where, decode=False)
    told = ("topology", "device", "mesh", "batch_size", "seq_len", "parameters", "capacity", "state", "fits")
    row = dict(model=name, schedule=schedule, micro_batches=int(micro_batches)) | {key: found[key] for key in told}
    row["bubble"] = round(cfg.model.layers.pipeline.bubble(STAGES), 4)
    row |= dict(kept=kept(cfg), train=found["train"])
    measure.add("pipeline_plan", (name, schedule, micro_batches), row)


if __name__ == "__main__":
    main(*sys.argv[1:])
