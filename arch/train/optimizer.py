"""What a step does to the weights: a direction, decay where weights are matrices, and a learning rate.

    g <- g min(1, clip_norm / |g|)          the global norm over all trained weights, all layers together
    w <- w - rate(s) factor (direction(g) + weight_decay w)

The directions are those of `arch.train.methods`, the rates those of `arch.train.schedule`. Decay is decoupled from the
direction for all of them: Loshchilov, Hutter, 2017, arXiv 1711.05101. Factors by path are how layer-wise learning rates
are spelled: Clark et al., ELECTRA, 2020, arXiv 2003.10555, app. A.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arch import config, tree
from arch.train import duration, methods, offload
from arch.train import schedule as schedules
from arch.train.disk import Disk
from arch.typing import Array


@config.frozen
class Config(config.Config):
    """The optimizer.

    Attributes:
      kind: how a gradient becomes a direction.
      learning_rate: the peak. Adafactor's is relative to each weight's root mean square.
      rate_shape: the learning rate behind the warm-up.
      warmup_steps, warmup_tokens ...: length of the linear warm-up from 0, in one of the units of
        `arch.train.duration`; none when all are 0.
      final_share: the last learning rate as a share of the peak (cosine, linear, wsd).
      decay_share: share of the run in which wsd goes from the peak to the last learning rate.
      rate_factors: (regular expression, factor) pairs; the first that is found in a weight's canonical path
        (`layers/3/attention/query`) is the factor of its learning rate. 0 freezes it.
      b1: decay of the mean of gradients (all but adafactor): for muon and sgd it is the momentum.
      b2: decay of the mean of their squares (adamw, muon's Adam); lion: of its mean.
      epsilon: added to the root of the latter.
      weight_decay: share of a weight that one step removes, before the factor of the learning rate.
      no_decay: regular expressions; a weight whose path holds one is not decayed. Stacked layers have the path
        `layers/scan_p_q/j`.
      clip_norm: greatest global norm of the gradient; 0 for no clipping.
      moments: the dtype in which the means are kept, of all but adafactor.
      offload: where they lie between steps: with the weights ('none'), in the host's memory, or in files of the
        workdir, on one machine; from there they come to each weight in turn.
    """

    kind: methods.Kind = "adamw"
    learning_rate: config.PositiveFloat = 1e-3
    rate_shape: schedules.Shape = "cosine"
    warmup_steps: config.NonNegativeInt = 0
    warmup_tokens: config.NonNegativeInt = 0
    warmup_examples: config.NonNegativeInt = 0
    warmup_epochs: config.NonNegativeFloat = 0.0
    warmup_percent: config.Percent = 0.0
    final_share: config.Fraction = 0.1
    decay_share: config.Fraction = 0.2
    rate_factors: tuple[tuple[str, config.NonNegativeFloat], ...] = ()
    b1: config.Fraction = 0.9
    b2: config.Fraction = 0.95
    epsilon: config.PositiveFloat = 1e-8
    weight_decay: config.NonNegativeFloat = 0.1
    no_decay: tuple[str, ...] = ("norm", "bias$", "(^|/)D$", "A_log$", "table$", "relative$", "sinks$")
    clip_norm: config.NonNegativeFloat = 1.0
    moments: methods.Moments = "float32"
    offload: Literal["none", "host", "disk"] = "none"

    def check(self):
        duration.unit(self, "warmup")
        for field in ("b1", "b2"):
            if getattr(self, field) == 1.0:
                raise ValueError(f"{field}=1.0 must be below 1: a mean that forgets nothing learns nothing")
        self._check_moments()
        for field in ("no_decay", "rate_factors"):
            for entry in getattr(self, field):
                pattern = entry if isinstance(entry, str) else entry[0]
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(
                        f"{field} holds {pattern!r}, which must be a regular expression: {error}"
                    ) from None

    def _check_moments(self):
        if self.moments == "float32":
            return
        if self.kind == "adafactor":
            raise ValueError(f"moments={self.moments!r} must be 'float32' with kind='adafactor', whose means are small")
        for field in ("b1", "b2"):
            if (decay := getattr(self, field)) > methods.MOST_DECAY:
                raise ValueError(
                    f"{field}={decay} must be at most {methods.MOST_DECAY} with moments={self.moments!r}: a mean that "
                    "decays more slowly stands still when it is rounded"
                )

    def make(
        self,
        total_steps: int,
        axes: Callable[[], Mapping[str, tuple[str, ...]]] | None = None,
        disk: Disk | None = None,
    ) -> optax.GradientTransformation:
        """The transformation for a run of so many steps, over the trained parameters only.

        Args:
          total_steps: of the run.
          axes: gives the logical axes of each parameter by path; muon, adafactor and offload='disk' need it.
          disk: the files of offload='disk'; None where none will be written, for only shapes are asked.
        """
        direction = methods.direction(self.kind, b1=self.b1, b2=self.b2, epsilon=self.epsilon, axes=axes)
        step = optax.chain(
            direction if self.moments == "float32" else methods.kept_as(self.moments, direction),
            optax.add_decayed_weights(self.weight_decay, self.decayed),
            optax.scale_by_learning_rate(self.schedule(total_steps)),
        )
        if self.offload == "host":
            step = offload.in_host(step, axes)
        elif self.offload == "disk":
            step = (disk or Disk(pathlib.Path())).keep(step, axes)
        clip = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        factors = [optax.stateless(self._times_factors)] if self.rate_factors else []
        return optax.chain(*clip, step, *factors) if clip or factors else step

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step."""
        return schedules.schedule(
            self.rate_shape,
            self.learning_rate,
            warmup=duration.in_steps(self, "warmup"),
            total=total_steps,
            final_share=self.final_share,
            decay_share=self.decay_share,
        )

    def last_rate(self, total_steps: int, opt_state: Any) -> Array:
        """[] the learning rate of the last step that changed weights: skipped ones do not count."""
        found = jax.tree.leaves(opt_state, is_leaf=_is_schedule)
        (taken,) = (leaf.count for leaf in found if _is_schedule(leaf))
        return jnp.asarray(self.schedule(total_steps)(jnp.maximum(taken - 1, 0)))

    def decayed(self, params: dict) -> dict[str, Any]:
        """A tree of booleans: which weights decay."""
        return tree.map_with_path(lambda _, kept: not kept, tree.select(params, self.no_decay))

    def factors(self, params: dict) -> dict[str, Any]:
        """The factor of each weight's learning rate; of stacked layers' an array that has one entry a layer."""

        def first(path, _):
            return next((factor for pattern, factor in self.rate_factors if re.search(pattern, path)), 1.0)

        canonical = tree.map_with_path(first, jax.eval_shape(tree.unstack, params))
        return tree.stack(canonical, params, np.array)

    def _times_factors(self, updates, params):
        del params

        def scaled(update, factor):
            return update * np.reshape(factor, np.shape(factor) + (1,) * (update.ndim - np.ndim(factor)))

        return jax.tree.map(scaled, updates, self.factors(updates))


def _is_schedule(state) -> bool:
    return isinstance(state, optax.ScaleByScheduleState)
