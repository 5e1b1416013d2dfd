"""AdamW with warm-up and a cosine, clipping by the global norm, decay only where weights are matrices.

    rate(s) = peak * s / warmup                                         s < warmup
    rate(s) = final + (peak - final) * (1 + cos(pi * share)) / 2        share: of the way from warmup to the end

Adam: Kingma, Ba, 2014, arXiv 1412.6980; decoupled decay: Loshchilov, Hutter, 2017, arXiv 1711.05101; the cosine:
arXiv 1608.03983, eq. 5. All of it is optax.
"""

import re
from typing import Any

import optax

from arch import config, tree


@config.frozen
class Config(config.Config):
    """AdamW.

    Attributes:
      learning_rate: the peak.
      warmup_steps: steps of linear warm-up from 0.
      final_share: the last learning rate as a share of the peak.
      b1: decay of the mean of gradients.
      b2: decay of the mean of their squares.
      epsilon: added to the root of the latter.
      weight_decay: share of a weight that one step removes, before the factor of the learning rate.
      no_decay: regular expressions; a weight whose path holds one is not decayed. Stacked layers have the path
        `layers/scan_p_q/j`.
      clip_norm: greatest global norm of the gradient; 0 for no clipping.
    """

    learning_rate: config.PositiveFloat = 1e-3
    warmup_steps: config.NonNegativeInt = 100
    final_share: config.Fraction = 0.1
    b1: config.Fraction = 0.9
    b2: config.Fraction = 0.95
    epsilon: config.PositiveFloat = 1e-8
    weight_decay: config.NonNegativeFloat = 0.1
    no_decay: tuple[str, ...] = ("norm", "bias$", "(^|/)D$", "A_log$", "table$", "relative$", "sinks$")
    clip_norm: config.NonNegativeFloat = 1.0

    def check(self):
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no_decay holds {pattern!r}, which must be a regular expression: {error}") from None

    def make(self, total_steps: int) -> optax.GradientTransformation:
        """The transformation for a run of so many steps, over the trained parameters only."""
        adam = optax.adamw(
            self.schedule(total_steps),
            b1=self.b1,
            b2=self.b2,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            mask=self.decayed,
        )
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adam) if self.clip_norm else adam

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step."""
        return optax.warmup_cosine_decay_schedule(
            init_value=self.learning_rate if not self.warmup_steps else 0.0,
            peak_value=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_steps=max(total_steps, self.warmup_steps + 1),
            end_value=self.learning_rate * self.final_share,
        )

    def decayed(self, params: dict) -> dict[str, Any]:
        """A tree of booleans: which weights decay."""
        return tree.map_with_path(lambda _, kept: not kept, tree.select(params, self.no_decay))
