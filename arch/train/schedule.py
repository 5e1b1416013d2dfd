"""Learning rates by step: a linear warm-up, then one of five shapes.

    rate(s) = peak s / warmup                                      s < warmup
    constant  rate(s) = peak
    cosine    rate(s) = final + (peak - final) (1 + cos(pi u)) / 2    u: share of the way from the warm-up to the end
    linear    rate(s) = peak + (final - peak) u
    rsqrt     rate(s) = peak sqrt(warmup / s)              (without warm-up: sqrt(1 / (s + 1)))
    wsd       rate(s) = peak, and over the last steps a line from there to final

Cosine: Loshchilov, Hutter, SGDR, 2016, arXiv 1608.03983, eq. 5. Inverse square root: Vaswani et al., 2017,
arXiv 1706.03762, sec. 5.3. Warm-up, stable, decay: Hu et al., MiniCPM, 2024, arXiv 2404.06395, sec. 4.
"""

from typing import Literal

import jax.numpy as jnp
import optax

Shape = Literal["constant", "cosine", "linear", "rsqrt", "wsd"]


def schedule(
    shape: Shape, peak: float, *, warmup: int, total: int, final_share: float, decay_share: float
) -> optax.Schedule:
    """Learning rate by step, counted from 0.

    Args:
      shape: as above. Constant and rsqrt know no end, and leave the last three aside.
      peak: the rate when the warm-up is over.
      warmup: steps.
      total: steps of the run, warm-up included; the last rate holds from there on.
      final_share: final / peak.
      decay_share: share of `total` that the line of wsd takes, at most what the warm-up leaves.
    """
    total, final = max(total, warmup + 1), peak * final_share
    if shape == "cosine":
        start = 0.0 if warmup else peak
        return optax.warmup_cosine_decay_schedule(start, peak, warmup, decay_steps=total, end_value=final)
    if shape == "constant":
        after = optax.constant_schedule(peak)
    elif shape == "rsqrt":
        scale = max(warmup, 1)
        after = lambda step: peak * jnp.sqrt(scale / jnp.maximum(scale + step, 1))  # step: behind the warm-up
    else:
        steps = total - warmup
        decay = min(steps, max(1, round(decay_share * total))) if shape == "wsd" else steps
        after = optax.linear_schedule(peak, final, decay, transition_begin=steps - decay)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after
