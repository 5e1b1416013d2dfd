"""What is kept with stages: of 1F1B's few micro-batches, of GPipe's all ticks."""

import pytest

from arch.families import llama
from arch.plan import activations, lowering
from arch.sharding import mesh as meshes
from arch.sharding import pipeline
from arch.train import experiment

SIZES = dict(vocab_size=31, embed_dim=8, num_layers=4, num_heads=2, hidden_dim=12)
ENTERS = 4 * 16 * 8
"""Bytes of what enters a layer of one row."""


def kept(schedule, micro_batches, stages=4):
    """Bytes that a device keeps, of a row in each micro-batch."""
    how, model = pipeline.Config(micro_batches=micro_batches, schedule=schedule), llama.compose(**SIZES)
    model = model.replace(layers=model.layers.replace(remat="full", pipeline=how))
    sizes = dict(total_steps=5, batch_size=micro_batches, seq_len=16)
    cfg = experiment.Config(model=model, **sizes, mesh=meshes.Config(data=1, stage=stages))
    return activations.of(lowering.prepare(cfg, meshes.abstract(cfg.mesh, stages)), "")[0]


OWN = (4 + 1) / 4
"""Of a stage's layers and its part of what the embedding gives."""


@pytest.mark.parametrize("schedule, count", [
    ("1f1b", 2 * 4 - 1 + 2 + OWN),  # of micro-batches that entered a stage, two on their way, one in its layers
    ("gpipe", (16 + 4 - 1) * OWN),  # of each tick
])  # fmt: skip
def test_a_stage_keeps_so_many_inputs(schedule, count):
    assert kept(schedule, 16) == pytest.approx(count * ENTERS, rel=0.1)  # places and the like are beside
