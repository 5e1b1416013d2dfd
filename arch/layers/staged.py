"""The repeated layers of a stack as a pipeline (`arch.sharding.pipeline`): what of a `Context` goes with the rows.

Each micro-batch takes its own rows of all that has rows: positions, documents, memory, routes, what layers share. The
layers' losses and statistics are means over rows, so that their means over micro-batches are those over the batch: as
with `micro_batches` of a run (`arch.train.gradient`), and with the same exception: what a mixture balances over a whole
batch (`balance_over='batch'`), it balances over each micro-batch. Dropout and noise are drawn for each by itself, and
are others than without stages.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arch.layers.contract import Aux, Common, Context
from arch.sharding import pipeline


def scan(period: Callable, weights: Any, carry: Any, context: Context, cfg: pipeline.Config) -> tuple[Any, Aux]:
    """The carry behind all periods, and their losses and statistics, [repeats ...].

    Args:
      period: period(weights, number, carry, context) -> (carry, Aux): through the period of this number. Its weights
        are `pipeline.Stacked`.
      weights: [repeats ...] of the layers' parameters: a tree.
      carry: (x, shared).
      context: of the whole batch.
      cfg: of the pipeline.

    Raises:
      ValueError: layers or rows do not divide, or routers are recorded.
    """
    x, _ = carry
    mesh = jax.sharding.get_abstract_mesh()
    pipeline.must_divide(cfg, jax.tree.leaves(weights)[0].shape[0], x.shape[0], mesh)
    if context.recording:
        raise ValueError(f"mesh.stage={pipeline.stages()} must be 1 to record routes: statistics are means over rows")
    count = cfg.parts(pipeline.stages())
    alike = (context.key, context.watched, context.parameters)
    rows, of_rows = jax.tree.flatten(dataclasses.replace(context, key=None, watched=None, parameters={}, shared={}))

    def layer(weights, number, micro_batch, carry, rows, alike):
        key, watched, parameters = alike
        own = dataclasses.replace(of_rows.unflatten(rows), key=key, watched=watched, parameters=parameters)
        carry, aux = period(weights, number, carry, own.fold(~micro_batch))  # from the last on: layers have the first
        return carry, (aux.losses, aux.stats)

    apart = lambda leaf: pipeline.micro_batches(leaf, cfg)
    split = lambda leaf: _common(leaf, lambda value: jnp.broadcast_to(value, (count, *value.shape)), apart)
    carry = jax.tree.map(split, carry, is_leaf=_is_common)
    carry, means = pipeline.run(layer, weights, carry, list(map(apart, rows)), alike, cfg=cfg)
    join = lambda leaf: _common(leaf, lambda values: values[0], pipeline.together)
    return jax.tree.map(join, carry, is_leaf=_is_common), Aux(*means)


def _is_common(leaf: Any) -> bool:
    return isinstance(leaf, Common)


def _common(leaf: Any, function: Callable, otherwise: Callable) -> Any:
    return Common(function(leaf.value)) if _is_common(leaf) else otherwise(leaf)
