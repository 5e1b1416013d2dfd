"""Training steps of models of about 1B active parameters at 4096 tokens: model FLOPs utilisation by our stated formula.

Float32 weights and moments (AdamW), bfloat16 arithmetic, random tokens. The utilisation is what a run logs
(`arch.train.utilization`): it counts what the result requires, half of causal attention, the experts chosen, nothing
for rematerialisation.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from arch import tree
from arch.families import llama, mamba2_lm, mixtral
from arch.layers import token_loss
from arch.sharding import mesh as meshes
from arch.train import optimizer as optimizers
from arch.train import state as states
from arch.train.step import train_step
from arch.train.utilization import utilization
from benchmarks.gpu import timing

LENGTH = 4096
SECONDS = 300
SAMPLE_S = 0.3
OPTIMIZER = optimizers.Config(learning_rate=3e-4, rate_shape="constant")
FIELDS = dict(tokens="int32", targets="int32", weights="float32", positions="int32", segment_ids="int32")
HEADS = dict(vocab_size=32000, embed_dim=2048, num_heads=16)
MODELS = {
    "dense": llama.compose(**HEADS, num_layers=24, hidden_dim=5504),
    "moe": mixtral.compose(**HEADS, num_layers=16, num_kv_heads=16, hidden_dim=2816),
    "mamba2": mamba2_lm.PRESETS["mamba2_1_3b"],
}
"""1.3B parameters; 2.6B, of which 1.0B are active: two of eight experts; 1.3B."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of training of one model.

    Attributes:
      name: of the model.
      cfg: of it.
      rows: of a batch.
      length: tokens of a row.
      remat: what the backward pass computes again.
      chunk_tokens: whose logits exist at a time.
    """

    name: str
    cfg: Any
    rows: int = 8
    length: int = LENGTH
    remat: str = "dots"
    chunk_tokens: int = 8192

    @property
    def model_cfg(self) -> Any:
        """Of the model as it is trained here."""
        return self.cfg.replace(dtype="bfloat16", layers=self.cfg.layers.replace(remat=self.remat))

    def lowered(self, where: NamedSharding) -> Iterator[tuple[str, str, Callable]]:
        """('', '', what lowers the step for the device)."""
        mesh = meshes.make(meshes.Config(), list(where.mesh.devices.flat))
        yield "", "", lambda: self.program(mesh)[0]

    def program(self, mesh: Mesh):
        """(the lowered step, a function of a key that makes its state) on the mesh, whose devices may not be there."""
        cfg = self.model_cfg
        model, descend = cfg.make(), OPTIMIZER.make(1000)
        plan = states.plan(model, descend, mesh)
        loss = token_loss.Config(chunk_tokens=self.chunk_tokens)
        step = train_step(model, cfg, descend, plan.trainable, None, loss=loss)
        shape = self.rows, self.length
        where = meshes.sharding(("batch", None), shape, mesh)
        batch = {field: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for field, dtype in FIELDS.items()}
        out = jax.tree.map(lambda leaf: leaf.sharding, plan.abstract), None
        with jax.set_mesh(mesh):
            key = jax.eval_shape(lambda: jax.random.key(0))
            lowered = jax.jit(step, donate_argnums=0, out_shardings=out).lower(plan.abstract, batch, key)
        return lowered, partial(states.init, model, descend, plan)

    def batch(self, seed: int) -> dict:
        """Random tokens, one document a row."""
        rows = np.random.default_rng(seed).integers(self.cfg.vocab_size, size=(self.rows, self.length + 1))
        ones = np.ones((self.rows, self.length), np.int32)
        given = {"tokens": rows[:, :-1], "targets": rows[:, 1:], "weights": ones, "segment_ids": ones}
        given |= {"positions": np.cumsum(ones, axis=1) - 1}
        return {name: jnp.asarray(given[name], dtype) for name, dtype in FIELDS.items()}

    def run(self, *, seed: int, samples: int = timing.SAMPLES, sample_s: float = SAMPLE_S) -> list[dict]:
        """One row."""
        mesh = meshes.make(meshes.Config(), jax.devices()[:1])
        lowered, make = self.program(mesh)
        compiled = lowered.compile()
        with jax.set_mesh(mesh):
            running = Running(compiled, make(jax.random.key(seed)), self.batch(seed))
        parameters = tree.count(running.state.params)
        first = float(running.launch(0))
        row = timing.in_turns({self.name: running}, samples=samples, sample_s=sample_s)[self.name]
        seconds = row["median_ms"] / 1e3
        kind = jax.devices()[0].device_kind
        used = utilization(self.model_cfg, self.rows, {"length": self.length}, device_kind=kind, num_devices=1)
        speeds = {name.removeprefix("perf/"): round(value, 4) for name, value in used.scalars(seconds).items()}
        about = dict(model=self.name, rows=self.rows, length=self.length, remat=self.remat, parameters=parameters)
        about |= dict(tokens_per_second=round(self.rows * self.length / seconds), **speeds)
        about |= dict(first_loss=round(first, 4), last_loss=round(float(running.loss), 4))
        return [about | dict(temporary_mib=compiled.memory_analysis().temp_size_in_bytes >> 20) | row]


class Running:
    """A run of a compiled step over one batch: a `timing.Side`."""

    def __init__(self, compiled, state, batch: dict):
        self.state, self.loss = state, None
        self._compiled, self._batch, self._key = compiled, batch, jax.random.key(1)

    def launch(self, number: int) -> jax.Array:
        self.state, metrics = self._compiled(self.state, self._batch, self._key)
        self.loss = metrics["loss"]
        return self.loss

    def wait(self, result: jax.Array) -> None:
        jax.block_until_ready((result, self.state))


PIECES = {name: partial(Step, name, cfg) for name, cfg in MODELS.items()}
