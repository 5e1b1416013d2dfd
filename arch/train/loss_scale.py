"""Dynamic loss scaling: what float16 needs so that small gradients do not vanish and large ones do no harm.

    gradient = d(scale loss) / scale.    Not finite: the step is skipped, scale / 2.    Finite for n steps: scale * 2.

float16 knows nothing below 6e-8: the loss is multiplied before the backward pass, and the gradients are divided behind
it, in float32. A skipped step leaves the optimizer as it was, its place in the learning rate's schedule included, so
that a run with k of them ends k steps before its schedule does. Source: Micikevicius et al., Mixed Precision Training, 2017, arXiv 1710.03740, sec. 3.2.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from arch import config
from arch.typing import Array, Bool, Float


@config.frozen
class Config(config.Config):
    """Loss scaling, in force where a model computes in float16.

    Attributes:
      initial: the first scale.
      growth_steps: finite steps in a row behind which the scale doubles.
    """

    initial: config.PositiveFloat = 2.0**15
    growth_steps: config.PositiveInt = 2000


@register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """Its state.

    Attributes:
      scale: [] float32.
      finite_steps: [] int32, in a row, since the scale last changed.
      skipped_steps: [] int32, in all.
    """

    scale: Any
    finite_steps: Any
    skipped_steps: Any


def init(initial: float) -> LossScale:
    """The state before the first step."""
    return LossScale(jnp.float32(initial), jnp.int32(0), jnp.int32(0))


def after(state: LossScale, norm: Float[Array, ""], growth_steps: int) -> tuple[LossScale, dict[str, Array]]:
    """The state after a step, and what to log of it. A scale does not go below 1.

    Args:
      state: before the step.
      norm: of the gradient.
      growth_steps: as in `Config`.

    Returns:
      The state, and `loss_scale`, that of this step; `skipped_steps` so far; `gradient_norm`, which of a skipped step
      is 0, but what it is when the scale has no way down.
    """
    finite = jnp.isfinite(norm)
    steps = jnp.where(finite, state.finite_steps + 1, 0)
    grows = steps >= growth_steps
    scale = jnp.where(finite, jnp.where(grows, 2 * state.scale, state.scale), jnp.maximum(state.scale / 2, 1.0))
    skipped = state.skipped_steps + jnp.where(finite, 0, 1)
    seen = jnp.where(finite | (state.scale <= 1.0), norm, 0.0)
    metrics = {"loss_scale": state.scale, "skipped_steps": skipped, "gradient_norm": seen}
    return LossScale(scale, jnp.where(grows, 0, steps), skipped), metrics


def unscaled(gradients: Any, state: LossScale) -> Any:
    """The gradients of the loss itself."""
    return jax.tree.map(lambda gradient: gradient / state.scale, gradients)


def kept(finite: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The new values after a finite step, else the old ones."""
    return jax.tree.map(lambda one, other: jnp.where(finite, one, other), new, old)
