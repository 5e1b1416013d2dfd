"""The loss of a language model's tokens, with all logits at once or a chunk of tokens at a time.

    loss_i = (1 - eps) (-log p_i(target_i)) + eps mean_v(-log p_i(v)) + zeta (log Z_i)^2
    p_i = exp(logits_i) / Z_i,    logits_i = cap tanh((table x_i + bias) / cap)

Label smoothing eps: Szegedy et al., 2015, arXiv 1512.00567, sec. 7. The z-loss zeta that keeps Z near 1: Chowdhery et
al., PaLM, 2022, arXiv 2204.02311, sec. 5. Chunks: the loss is a sum over tokens, so its gradients by a chunk's `x`,
the table and the bias are known as soon as the chunk's logits are; the forward pass computes them and the backward pass
scales them, and no logit is computed twice or kept. The idea is that of Hsu et al., Liger Kernel, 2024, arXiv
2410.10989.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.loss import cross_entropy
from arch.typing import Array, Float, Int


def token_loss(
    logits: Float[Array, "*b v"], targets: Int[Array, "*b"], *, label_smoothing: float = 0.0, z_weight: float = 0.0
) -> tuple[Float[Array, "*b"], Float[Array, "*b"], Float[Array, "*b"]]:
    """The loss of each token, its plain cross-entropy in nats, and 1 where no id is likelier than it, in float32.

    Args:
      logits: [... v].
      targets: [...] ids.
      label_smoothing: eps, the share of the target that all ids divide among them.
      z_weight: zeta.
    """
    nats = loss = cross_entropy(logits, targets)
    wide = logits.astype(nats.dtype)
    if label_smoothing or z_weight:
        log_z = jax.nn.logsumexp(wide, axis=-1)
    if label_smoothing:
        loss = (1 - label_smoothing) * nats + label_smoothing * (log_z - jnp.mean(wide, axis=-1))
    correct = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0] >= jnp.max(wide, axis=-1)
    return loss + z_weight * log_z**2 if z_weight else loss, nats, correct.astype(nats.dtype)


def soft_capped(logits: Float[Array, "*b v"], cap: float) -> Float[Array, "*b v"]:
    """Logits that stay within (-cap, cap); unchanged when cap is 0."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def chunked_cross_entropy(
    x: Float[Array, "*b d"],
    table: Float[Array, "v d"],
    targets: Int[Array, "*b"],
    weights: Float[Array, "*b"],
    bias: Float[Array, "v"] | None = None,
    *,
    chunk: int,
    soft_cap: float = 0.0,
    label_smoothing: float = 0.0,
    z_weight: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The weighted sums of `token_loss` over all tokens, without an array of all logits.

    Args:
      x: the hidden states that the table turns into logits.
      table: the unembedding.
      targets: ids.
      weights: of each token.
      bias: of the logits; None for none.
      chunk: tokens whose logits exist at a time. Tokens are dealt out in turn, so that on a mesh that splits the batch
        each chunk lies on all shards; the last ones are filled up with tokens of weight 0.
      soft_cap: of the logits; 0 for none.
      label_smoothing: as in `token_loss`.
      z_weight: as in `token_loss`.

    Returns:
      (loss, nats, correct), float32 or wider. Gradients, of first order, flow from `loss` to `x`, `table` and `bias`;
      the others are for the log.

    Raises:
      ValueError: chunk is not positive.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be a positive number of tokens")
    num_tokens = targets.size
    num_chunks = -(-num_tokens // chunk)
    chunk = -(-num_tokens // num_chunks)

    def deal(array, *rest):
        array = array.reshape(num_tokens, *rest)
        array = jnp.pad(array, [(0, chunk * num_chunks - num_tokens)] + [(0, 0)] * len(rest))
        return array.reshape(chunk, num_chunks, *rest).swapaxes(0, 1)

    rest = soft_cap, label_smoothing, z_weight
    loss, logged = _sums(rest, deal(x, x.shape[-1]), (table, bias), deal(targets), deal(weights))
    return loss, *lax.stop_gradient(logged)


def _chunk_sums(rest, x, unembedding, targets, weights):
    soft_cap, label_smoothing, z_weight = rest
    wide = jnp.promote_types(x.dtype, jnp.float32)
    table, bias = unembedding
    logits = jnp.einsum("cd,vd->cv", x, table, preferred_element_type=wide)
    logits = soft_capped(logits if bias is None else logits + bias, soft_cap)
    loss, *logged = token_loss(logits, targets, label_smoothing=label_smoothing, z_weight=z_weight)
    return jnp.sum(loss * weights), tuple(jnp.sum(value * weights) for value in logged)


def _zeros(rest, *chunks):
    """Zero sums, of the type that a chunk's have."""
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(partial(_chunk_sums, rest), *chunks))


def _add(sums, more):
    return jax.tree.map(jnp.add, sums, more)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(rest, x, unembedding, targets, weights):
    def add(sums, part):
        x, targets, weights = part
        return _add(sums, _chunk_sums(rest, x, unembedding, targets, weights)), None

    zeros = _zeros(rest, x[0], unembedding, targets[0], weights[0])
    return lax.scan(add, zeros, (x, targets, weights))[0]


def _sums_forward(rest, x, unembedding, targets, weights):
    """The sums, and as residuals the gradients of the loss: nothing is left to the backward pass but their scale."""
    value_and_grad = jax.value_and_grad(partial(_chunk_sums, rest), argnums=(0, 1), has_aux=True)

    def add(carry, part):
        x, targets, weights = part
        sums, d_unembedding = carry
        more, (d_x, d_more) = value_and_grad(x, unembedding, targets, weights)
        return (_add(sums, more), _add(d_unembedding, d_more)), d_x

    zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.promote_types(array.dtype, jnp.float32)), unembedding)
    zeros = _zeros(rest, x[0], unembedding, targets[0], weights[0]), zeros
    (sums, d_unembedding), d_x = lax.scan(add, zeros, (x, targets, weights))
    return sums, (d_x, d_unembedding, jax.tree.map(lambda array: array[:0], unembedding))


def _sums_backward(rest, residuals, cotangents):
    """A sum over all tokens may be more than float16 can hold: the table's is scaled before it is rounded."""
    (d_x, d_unembedding, like), (d_loss, _) = residuals, cotangents
    scaled = lambda d, like: (d * d_loss).astype(like.dtype)
    return scaled(d_x, d_x), jax.tree.map(scaled, d_unembedding, like), None, None


_sums.defvjp(_sums_forward, _sums_backward)
