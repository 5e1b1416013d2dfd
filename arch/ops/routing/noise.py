"""What is random about a router's input and its experts, in training alone.

Three things are called expert dropout, and are three things here: `jitter` multiplies what the router reads (Fedus et
al., Switch Transformers, 2021, arXiv 2101.03961, app. C and table 11, epsilon 0.01); dropout inside the experts
zeroes entries of their hidden layer (the same paper's expert dropout, sec. 2.4 and table 4, rate 0.4 in fine-tuning;
the experts' layer does it); `drop_experts` takes whole experts away from a row.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing import scores
from arch.typing import Array, Float, Key


def jitter(x: Float[Array, "b t d"], key: Key[Array, ""] | None, *, epsilon: float) -> Float[Array, "b t d"]:
    """What the router reads, each entry times a uniform number from 1 - epsilon to 1 + epsilon; x without a key."""
    if key is None or not epsilon:
        return x
    return x * jax.random.uniform(key, x.shape, x.dtype, 1 - epsilon, 1 + epsilon)


def drop_experts(
    logits: Float[Array, "b t e"], key: Key[Array, ""] | None, *, rate: float, at_least: int
) -> Float[Array, "b t e"]:
    """The logits, `scores.DROPPED` for experts that a row goes without; the logits alone without a key.

    Each row loses each expert with probability `rate`, but keeps at least `at_least`: those of the highest draws. The
    softmax over the rest is that of a smaller mixture, as in dropout of whole units. No paper's exact rule.
    """
    if key is None or not rate:
        return logits
    draw = jax.random.uniform(key, (logits.shape[0], logits.shape[-1]))
    floor = jax.lax.top_k(draw, at_least)[0][:, -1:]
    kept = (draw >= rate) | (draw >= floor)
    return jnp.where(kept[:, None], logits, scores.DROPPED)
