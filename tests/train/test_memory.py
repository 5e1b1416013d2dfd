"""The memory told of a training step is near that of the compiled one, and its parts are what they say."""

import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from arch.families import bert, gpt, t5
from arch.heads import masked_lm
from arch.layers import token_loss
from arch.sharding import mesh as meshes
from arch.tasks import masked_tokens, span_corruption
from arch.train import ema, experiment, memory
from arch.train import state as states
from arch.train.step import train_step
from tests.commands import ROOT
from tests.contracts.sublayers import jit
from tests.train import tiny

ROWS, LENGTH = 8, 64


def planned(cfg, **sizes):
    """(plan, memory) on a mesh of these sizes that need not exist."""
    mesh = meshes.abstract(meshes.Config(**{"data": 1} | sizes), math.prod(sizes.values()))
    model = cfg.model.make()
    optimizer = cfg.optimizer.make(cfg.total_steps, lambda: states.axes(model))
    plan = states.plan(model, optimizer, mesh, states.Beside(average=bool(cfg.ema.decay)))
    shards = sizes.get("data", 1) * sizes.get("fsdp", 1)
    return plan, memory.estimate(cfg, plan, batch_shards=shards, weight_shards=sizes.get("fsdp", 1))


def compiled(cfg):
    """XLA's account of the step on one device."""
    model = cfg.model.make()
    optimizer = cfg.optimizer.make(cfg.total_steps)
    plan = states.plan(model, optimizer, meshes.make(meshes.Config(), jax.devices()[:1]))
    ids = jax.ShapeDtypeStruct((cfg.batch_size, cfg.seq_len), jnp.int32)
    batch = dict.fromkeys(("tokens", "targets", "segment_ids", "positions"), ids)
    batch["weights"] = jax.ShapeDtypeStruct(ids.shape, jnp.float32)
    token_bytes = jnp.ones(cfg.model.vocab_size)
    step = train_step(model, cfg.model, optimizer, plan.trainable, token_bytes, micro_batches=cfg.micro_batches)
    lowered = jit(step, donate_argnums=0).lower(plan.abstract, batch, jax.random.key(0))
    return lowered.compile().memory_analysis()


def run(model, **fields):
    return experiment.Config(model=model, total_steps=5, batch_size=ROWS, seq_len=LENGTH, **fields)


def transformer(remat="none", dtype="float32"):
    model = gpt.compose(embed_dim=48, num_layers=3, num_heads=3, vocab_size=211, length=LENGTH)
    return model.replace(layers=model.layers.replace(remat=remat), dtype=dtype)


def slow(name, cfg):
    return pytest.param(cfg, id=name, marks=pytest.mark.slow)


CASES = [
    pytest.param(run(transformer()), id="transformer"),
    slow("full", run(transformer("full"))),
    slow("dots", run(transformer("dots"))),
    slow("bfloat16", run(transformer(dtype="bfloat16"))),
    slow("micro_batches", run(transformer(), micro_batches=2)),
    slow("hybrid", run(experiment.from_dict(tiny.fields("hybrid")).model)),
]


@pytest.mark.parametrize("cfg", CASES)
def test_the_estimate_is_within_half_of_the_compiled_step(cfg):
    _, told = planned(cfg)
    actual = compiled(cfg)
    assert 2 / 3 < actual.temp_size_in_bytes / told.temporary < 3 / 2
    state = told.parameters + told.optimizer
    assert 0 <= actual.argument_size_in_bytes - state < 0.1 * state  # the batch and the key


def sums():
    """What four micro-batches need beside what one alone does, in sizes of the parameters."""
    cfg = run(transformer())
    _, told = planned(cfg)
    part, whole = compiled(cfg), compiled(cfg.replace(batch_size=4 * ROWS, micro_batches=4))
    return (whole.temp_size_in_bytes - part.temp_size_in_bytes) / told.parameters


@pytest.mark.slow
def test_gradients_of_micro_batches_are_added_up_in_place():
    """Beside a micro-batch's own step a whole batch's needs the sums, one array a weight, and no copy of them.

    In a process that has XLA's order for one device, not that for several (`arch.train.cpu_devices`).
    """
    environment = os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    code = "from tests.train import test_memory; print(test_memory.sums())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) < 1.5


def test_a_state_split_eight_ways_has_an_eighth_on_each_device():
    cfg = run(gpt.compose(embed_dim=64, num_layers=2, num_heads=2, vocab_size=208, length=LENGTH))
    whole, part = (planned(cfg, fsdp=shards)[1] for shards in (1, 8))
    assert part.parameters == pytest.approx(whole.parameters / 8, rel=0.06)  # some shifts stay whole
    assert part.gradients == part.parameters and part.optimizer == pytest.approx(2 * part.parameters, abs=16)


def test_activations_go_with_the_rows_of_a_device():
    cfg = run(transformer())
    one, four = (planned(cfg, data=shards)[1] for shards in (1, 4))
    assert one.activations == pytest.approx(4 * four.activations, rel=1e-3) and one.parameters == four.parameters


def test_a_chunked_loss_needs_no_logits_of_all_tokens():
    cfg = run(transformer())
    whole, chunked = planned(cfg)[1], planned(cfg.replace(loss=token_loss.Config(chunk_tokens=8)))[1]
    assert whole.activations - chunked.activations == 2 * 4 * (ROWS * LENGTH - 8) * 211


def test_masked_tokens_need_no_logits_of_the_others():
    model = bert.compose(embed_dim=48, num_layers=3, num_heads=3, hidden_dim=96, vocab_size=211, length=LENGTH)
    every, some = (
        planned(run(model.replace(head=masked_lm.Config()), task=masked_tokens.Config(rate=rate)))[1].activations
        for rate in (1.0, 0.25)
    )
    assert every - some == 2 * 4 * ROWS * (LENGTH - 16) * 211


def test_rematerialisation_keeps_less():
    none, dots, full = (planned(run(transformer(remat)))[1].activations for remat in ("none", "dots", "full"))
    assert none > dots > full


def test_an_average_is_as_large_as_the_parameters():
    _, told = planned(run(transformer(), ema=ema.Config(decay=0.9)))
    assert told.average == told.parameters
    assert told.total == told.parameters + told.optimizer + told.average + told.temporary


@pytest.mark.slow
def test_activations_of_an_encoder_decoder_go_with_both_lengths():
    cfg = run(t5.PRESETS["t5_small"], task=span_corruption.Config())
    whole = planned(cfg)[1].activations
    assert whole > planned(cfg.replace(seq_len=LENGTH // 2))[1].activations > whole / 4
