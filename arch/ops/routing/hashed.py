"""Each token to the experts that a fixed table has for its id: nothing is learned, nothing is scored.

    y_t = mean over the k tables of E_{table[id_t]}(x_t)

Roller et al., Hash Layers for Large Sparse Models, 2021, arXiv 2106.04426, sec. 3.1 (random hashes; position hashes
take the position for the id; balanced ones, by the training text's frequencies of ids, are not here). Several tables a
layer are our plain reading of its MultiHash (sec. 3.2), which cuts the experts into segments instead. Without logits
there is nothing for a balance or z-loss to train.
"""

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Int


def route(
    ids: Int[Array, "b t"], real: Bool[Array, "b t"], *, table: Int[Array, "v c"], num_experts: int
) -> TokenChoice:
    """Hash routing.

    Args:
      ids: [b t] of tokens, or any number to hash by, taken modulo the table's length.
      real: [b t] which tokens are no padding.
      table: [v c] the experts of each id, from `random_table`.
      num_experts: e.
    """
    experts = table[ids % table.shape[0]]
    weights = jnp.full(experts.shape, 1 / experts.shape[-1], jnp.float32)
    probabilities = jnp.mean(jax.nn.one_hot(experts, num_experts, dtype=jnp.float32), axis=2)
    return scores.keep_all(experts, weights, probabilities, real)


def random_table(vocab_size: int, *, num_experts: int, k: int = 1, seed: int = 0) -> np.ndarray:
    """[v c] int32: k different experts for each id, each with the same chance."""
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((vocab_size, num_experts)), axis=-1)[:, :k].astype(np.int32)
