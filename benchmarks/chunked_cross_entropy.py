"""The loss of a language model, chunk by chunk, against the plain one that holds all logits: value and gradients.

python -m benchmarks.chunked_cross_entropy [tokens]
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp

from arch.ops.chunked_cross_entropy import chunked_cross_entropy, token_loss
from benchmarks.measure import measure, write

WIDTH, VOCAB, CHUNKS = 128, 131072, (64,)


def plain(x, table, targets, weights):
    return tuple(jnp.sum(value * weights) for value in token_loss(jnp.einsum("md,vd->mv", x, table), targets))


def with_aux(loss):
    """Loss, and what is for the log."""

    def pair(*arrays):
        value, *logged = loss(*arrays)
        return value, logged

    return pair


def compare(tokens: int) -> list[dict]:
    keys = jax.random.split(jax.random.key(0), 3)
    x, table = jax.random.normal(keys[0], (tokens, WIDTH)), WIDTH**-0.5 * jax.random.normal(keys[1], (VOCAB, WIDTH))
    targets, weights = jax.random.randint(keys[2], (tokens,), 0, VOCAB), jnp.full(tokens, 1 / tokens)
    losses = {"plain": plain} | {f"chunks of {c}": partial(chunked_cross_entropy, chunk=c) for c in CHUNKS}
    how = dict(argnums=(0, 1), has_aux=True)
    functions = {name: jax.value_and_grad(with_aux(loss), **how) for name, loss in losses.items()}
    rows = measure(functions, x, table, targets, weights, peer="plain", repeats=7)
    share = lambda row: dict(temp_share=round(row["temp_mib"] / rows[0]["temp_mib"], 4))
    return [dict(m=tokens, d=WIDTH, v=VOCAB, what="forward+backward") | row | share(row) for row in rows]


if __name__ == "__main__":
    write("chunked_cross_entropy", compare(int(sys.argv[1]) if sys.argv[1:] else 1024))
