"""Losses that keep a router balanced and its logits small, and the bias that balances without one.

    f.P           E sum_i f_i P_i,   f: share of assignments, P: mean probability      Switch eq. 4-6, GShard alg. 1
    CV squared    Var_i(x_i) / Mean_i(x_i)^2,   x: importance, or load                 Shazeer eq. 7 and 11
    E sum p^2     E sum_i p_i^2 = 1 + CV squared of p,   p: importance divided by its sum
    variance      Var_i(p_i) = CV squared of p / E^2
    z             mean over tokens of (logsumexp l)^2                                  ST-MoE eq. 5

Uniform routing gives them 1, 0, 1, 0. Published weights: f.P 0.01 in Switch and GLaM, 0.02 in Mixtral's code, 0.0001
in DeepSeek-V3; CV squared 0.1 each in Shazeer; z 0.001 in ST-MoE; the bias's rate 0.001 in DeepSeek-V3.

Shazeer et al., Outrageously Large Neural Networks, 2017, arXiv 1701.06538. Lepikhin et al., GShard, 2020, arXiv
2006.16668. Fedus, Zoph, Shazeer, Switch Transformers, 2021, arXiv 2101.03961. Du et al., GLaM, 2021, arXiv
2112.06905. Zoph et al., ST-MoE, 2022, arXiv 2202.08906. Wang et al., Auxiliary-Loss-Free Load Balancing, 2024, arXiv
2408.15664, alg. 1. The sum of squares and the variance are CV squared in other units; no paper of their own is
claimed.

Each loss reads statistics [b e], sums over each row's real tokens, and is a mean over the rows, as DeepSeek-V2 (2024,
arXiv 2405.04434, sec. 2.2.3) and V3 have it: independent of how the batch is cut into shards and micro-batches.
`pool` makes the statistics of all rows one row: the same loss over the whole batch (Qiu et al., Demons in the Detail,
2025, arXiv 2501.11873). That one couples rows: on a mesh the sum is over all shards, and data parallelism leaves it
exact; micro-batches do not, since none knows the others' loads: it is then the mean over micro-batches of each one's.
Exact f for each would take a forward pass of the whole batch before the first gradient; the paper's own remedy, a
buffer of the counts so far (sec. 3), is not exact either, and is not here: take larger micro-batches, or more shards.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arch.ops.routing.scores import wide
from arch.typing import Array, Bool, Float, Int, Scalar


def counts(experts: Int[Array, "b t c"], kept: Bool[Array, "b t c"], *, num_experts: int) -> Float[Array, "b e"]:
    """How many of each row's kept assignments each expert has. It has no gradient."""
    return jnp.sum(jax.nn.one_hot(experts, num_experts, dtype=jnp.float32) * kept[..., None], axis=(1, 2))


def importance(gates: Float[Array, "b t e"], real: Bool[Array, "b t"]) -> Float[Array, "b e"]:
    """The sum of an expert's gate values, or probabilities, over each row's real tokens (Shazeer eq. 6)."""
    return jnp.sum(wide(gates) * real[..., None], axis=1)


def share(statistic: Float[Array, "b e"]) -> Float[Array, "b e"]:
    """Each row divided by its sum; a row of padding stays zero."""
    total = jnp.sum(statistic, axis=-1, keepdims=True)
    return statistic / jnp.where(total > 0, total, 1)


def pool(statistic: Float[Array, "b e"]) -> Float[Array, "1 e"]:
    """The statistic of all rows together, as one row."""
    return jnp.sum(statistic, axis=0, keepdims=True)


def f_dot_p(load: Float[Array, "b e"], importance: Float[Array, "b e"]) -> Scalar:
    """E sum_i f_i P_i. At least 1 where f = P; its gradient goes through P alone.

    Args:
      load: [b e] `counts` of all assignments; of the first choices alone in GShard.
      importance: [b e] `importance` of the probabilities.
    """
    return jnp.mean(load.shape[-1] * jnp.sum(share(load) * share(importance), axis=-1))


def cv_squared(statistic: Float[Array, "b e"]) -> Scalar:
    """Var / Mean^2 over the experts (population variance); 0 for a row of padding."""
    return jnp.mean(_variance(statistic) * statistic.shape[-1] ** 2)


def sum_of_squares(statistic: Float[Array, "b e"]) -> Scalar:
    """E sum_i p_i^2, at least 1 unless a row is padding."""
    return jnp.mean(statistic.shape[-1] * jnp.sum(jnp.square(share(statistic)), axis=-1))


def variance(statistic: Float[Array, "b e"]) -> Scalar:
    """The variance over the experts of the share that each has, at least 0."""
    return jnp.mean(_variance(statistic))


def _variance(statistic: Float[Array, "b e"]) -> Float[Array, "b"]:
    """[b] Var_i(p_i) of each row."""
    return jnp.var(share(statistic), axis=-1)


BALANCE: dict[str, Callable[[Array, Array], Scalar]] = {
    "f_dot_p": f_dot_p,
    "cv_squared": lambda load, importance: cv_squared(importance),
    "sum_of_squares": lambda load, importance: sum_of_squares(importance),
    "variance": lambda load, importance: variance(importance),
}
"""The balance losses by name, as functions of (load, importance); those of one statistic read the importance."""


def z_loss(logits: Float[Array, "b t e"], real: Bool[Array, "b t"]) -> Scalar:
    """(logsumexp of the logits)^2, averaged over each sequence's real tokens, then over the sequences."""
    square = jnp.square(jax.nn.logsumexp(wide(logits), axis=-1)) * real
    return jnp.mean(jnp.sum(square, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1))


def balanced_bias(bias: Float[Array, "e"], share: Float[Array, "e"], *, rate: float) -> Float[Array, "e"]:
    """The next bias of loss-free balancing: up by `rate` for experts under the mean load, down for those above."""
    return bias + rate * jnp.sign(jnp.mean(share) - share)
