"""The train step as a run compiles it: over the whole mesh, the state's arrays where its plan places them, donated."""

from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arch.train import experiment
from arch.train import state as states
from arch.train.state import TrainState
from arch.train.step import train_step


def jitted(
    cfg: experiment.Config,
    model: Any,
    optimizer: optax.GradientTransformation,
    plan: states.Plan,
    mesh: Mesh,
    token_bytes: np.ndarray | None,
):
    """The jitted function (state, batch, key, order) -> (state, metrics), `learning_rate` among them.

    Args:
      cfg: of the run, all lengths in steps.
      model: the Linen module.
      optimizer: over the trained parameters.
      plan: of the state, on the mesh.
      mesh: of devices that are here, or for which it is only compiled.
      token_bytes: [v] bytes of text that each id stands for; None where that is not known.
    """
    take = train_step(
        model,
        cfg.model,
        optimizer,
        plan.trainable,
        token_bytes,
        task=cfg.task,
        micro_batches=cfg.micro_batches,
        loss=cfg.loss,
        ema_decay=cfg.ema.decay,
        growth_steps=cfg.loss_scale.growth_steps,
        bad=cfg.bad_batch,
    )

    def function(state: TrainState, *args):
        state, metrics = take(state, *args)
        rate = cfg.optimizer.last_rate(cfg.total_steps, state.opt_state)
        return state, metrics | {"learning_rate": rate}

    where = jax.tree.map(lambda leaf: leaf.sharding, plan.abstract)
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(function, donate_argnums=0, out_shardings=(where, whole))
