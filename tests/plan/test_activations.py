"""What is kept with stages: kept rows of benchmarks/results/pipeline_memory-cpu.json, which XLA compiled for CPU."""

import json

import pytest

from arch.families import llama
from arch.plan import closed_form, lowering
from arch.sharding import mesh as meshes
from arch.sharding import pipeline
from arch.train import experiment
from benchmarks import measure

BENCHMARK = json.loads((measure.RESULTS / "pipeline_memory-cpu.json").read_text())["rows"]
MODEL = dict(vocab_size=256, embed_dim=128, hidden_dim=384, num_heads=4, num_layers=16)  # that of the benchmark
NAMES = "stages", "micro_batches", "remat", "schedule"


def temporaries(stages, micro_batches, remat, schedule):
    """MiB of a step by the closed form: one row of 256 tokens a micro-batch."""
    model, how = llama.compose(**MODEL), pipeline.Config(micro_batches=micro_batches, schedule=schedule)
    model = model.replace(layers=model.layers.replace(remat=remat, pipeline=how))
    sizes = dict(total_steps=5, batch_size=micro_batches, seq_len=256)
    cfg = experiment.Config(model=model, **sizes, mesh=meshes.Config(data=1, stage=stages))
    found = closed_form.estimate(lowering.prepare(cfg, meshes.abstract(cfg.mesh, stages)))
    return (found.memory.temporary + found.gathered) / 2**20


TURNS = [
    tuple(row[name] for name in NAMES) + (row["temporaries_mib"],) for row in BENCHMARK if row["schedule"] == "1f1b"
]
FEW = [row for row in TURNS if row[1] == 64]
ALL = [pytest.param(*row, marks=[pytest.mark.slow] * (row not in FEW)) for row in TURNS]


@pytest.mark.parametrize("stages, micro_batches, remat, schedule, compiled", ALL)
def test_one_forward_one_backward_is_told_within_a_quarter(stages, micro_batches, remat, schedule, compiled):
    assert temporaries(stages, micro_batches, remat, schedule) == pytest.approx(compiled, rel=0.25)
