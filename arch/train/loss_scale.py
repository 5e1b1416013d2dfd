"""Dynamic loss scaling: what float16 needs so that small gradients do not vanish and large ones do no harm.

    gradient = d(scale loss) / scale.    Not finite: the step is skipped, scale / 2.    Finite for n steps: scale * 2.

float16 knows nothing below 6e-8: the loss is multiplied before the backward pass, and the gradients are divided behind
it, in float32. A skipped step leaves the optimizer as it was, its place in the learning rate's schedule included, so
that a run with k of them ends k steps before its schedule does. Source: Micikevicius et al., Mixed Precision Training,
2017, arXiv 1710.03740, sec. 3.2.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from arch import config
from arch.typing import Array, Bool, Float


@config.frozen
class Config(config.Config):
    """Loss scaling, in force where a model computes in float16.

    Attributes:
      initial: the first scale, a float32.
      growth_steps: finite steps in a row behind which the scale doubles.
    """

    initial: Annotated[float, config.Range(0, float(np.finfo(np.float32).max), open=True)] = 2.0**15
    growth_steps: config.PositiveInt = 2000


@register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """Its state.

    Attributes:
      scale: [] float32.
      finite_steps: [] int32, in a row, since the scale last changed.
    """

    scale: Any
    finite_steps: Any


def init(initial: float) -> LossScale:
    """The state before the first step."""
    return LossScale(jnp.float32(initial), jnp.int32(0))


def overflows(state: LossScale, norm: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a gradient of this norm is one that a smaller scale may mend: then its step is skipped."""
    return ~jnp.isfinite(norm) & (state.scale > 1.0)


def after(state: LossScale, overflowed: Bool[Array, ""], growth_steps: int) -> LossScale:
    """The state after a step. A scale does not go below 1.

    Args:
      state: before the step.
      overflowed: whether the step was skipped for it.
      growth_steps: as in `Config`.
    """
    steps = jnp.where(overflowed, 0, state.finite_steps + 1)
    grows = steps >= growth_steps
    grown = jnp.where(grows, 2 * state.scale, state.scale)
    return LossScale(
        jnp.where(overflowed, jnp.maximum(state.scale / 2, 1.0), grown), jnp.where(grows, 0, steps)
    )


def unscaled(gradients: Any, state: LossScale) -> Any:
    """The gradients of the loss itself."""
    return jax.tree.map(lambda gradient: gradient / state.scale, gradients)
