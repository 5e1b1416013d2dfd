"""Rotary position embedding: pairs of channels turn by an angle proportional to the position.

    (x_i, x_j) -> (x_i cos a - x_j sin a,  x_i sin a + x_j cos a),      a = position * theta^(-2i/h)  for pair i

Su et al., RoFormer, 2021, arXiv 2104.09864, eq. 34, pairs neighbours ('interleaved', as GPT-J does); GPT-NeoX and LLaMA
pair channel i with i + h/2 ('halves'). Frequencies come from the host in float64, since positions multiply their error.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from arch.typing import Array, Float, Int

Pairing = Literal["halves", "interleaved"]


def frequencies(channels: int, theta: float) -> np.ndarray:
    """[channels / 2] radians a token of each pair: theta^(-2i/channels)."""
    return theta ** (-np.arange(0, channels, 2) / max(channels, 1))


def rotate(
    x: Float[Array, "b t n h"],
    positions: Int[Array, "b t"],
    frequency: np.ndarray,
    *,
    pairing: Pairing = "halves",
    magnitude: float = 1.0,
) -> Float[Array, "b t n h"]:
    """Queries or keys turned by their positions, so that their products depend on position differences only.

    Args:
      x: [b t n h].
      positions: [b t].
      frequency: [r] radians a token; the first 2 r channels turn, the others stay.
      pairing: which channels turn together.
      magnitude: factor of the channels that turn (YaRN's).
    """
    angle = positions[..., None, None].astype(jnp.float32) * jnp.asarray(frequency, jnp.float32)
    cos, sin = magnitude * jnp.cos(angle), magnitude * jnp.sin(angle)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    turning, rest = jnp.split(wide, [2 * frequency.size], axis=-1)
    if pairing == "halves":
        first, second = jnp.split(turning, 2, axis=-1)
    else:
        first, second = turning[..., 0::2], turning[..., 1::2]
    turned = [first * cos - second * sin, first * sin + second * cos]
    if pairing == "interleaved":
        turned = [jnp.stack(turned, axis=-1).reshape(turning.shape)]
    return jnp.concatenate([*turned, rest], axis=-1).astype(x.dtype)


def ntk_theta(theta: float, channels: int, *, factor: float) -> float:
    """The base with which the slowest pair turns `factor` times slower and the fastest as before.

    Source: Peng et al., YaRN, 2023, arXiv 2309.00071, definition 1.
    """
    return theta * factor ** (channels / max(channels - 2, 1))


def yarn(
    frequency: np.ndarray,
    *,
    theta: float,
    factor: float,
    original_length: int,
    beta_fast: float,
    beta_slow: float,
    truncate: bool,
) -> np.ndarray:
    """[r] frequencies divided by `factor` where slow, kept where fast, mixed on a ramp between.

    The ramp is linear in the pair's index, as in the released code; the paper's eq. 18 has it linear in the turns.

    Args:
      frequency: [r] of pairs, as `frequencies` gives them.
      theta: their base.
      factor: how many times longer the rows are.
      original_length: tokens of a row in training.
      beta_fast: turns over such a row from which a pair is kept.
      beta_slow: turns up to which a pair is interpolated.
      truncate: the ramp's ends are whole pairs.

    Source: Peng et al., YaRN, 2023, arXiv 2309.00071, sec. 3.2, and its released code.
    """
    channels = 2 * frequency.size
    pair = lambda turns: channels * math.log(original_length / (2 * math.pi * turns)) / (2 * math.log(theta))
    low, high = pair(beta_fast), pair(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    interpolated = np.clip((np.arange(frequency.size) - low) / max(high - low, 1e-3), 0, 1)
    return frequency * (1 - interpolated) + frequency / factor * interpolated


def llama3(
    frequency: np.ndarray, *, factor: float, low_freq_factor: float, high_freq_factor: float, original_length: int
) -> np.ndarray:
    """[r] frequencies divided by `factor` where slow, kept where fast, mixed linearly in the turns between.

    Args:
      frequency: [r] radians a token.
      factor: how many times slower the slow pairs turn.
      low_freq_factor: turns over `original_length` tokens up to which a pair is interpolated.
      high_freq_factor: turns from which it is kept.
      original_length: tokens of a row in training.

    Source: Llama 3.1's released code (arXiv 2407.21783, sec. 3.4.2, has the larger theta only).
    """
    turns = original_length * frequency / (2 * math.pi)
    kept = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return frequency * kept + frequency / factor * (1 - kept)
