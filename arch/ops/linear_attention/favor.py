"""FAVOR+: softmax attention through random features whose products are, on average, the softmax's exponentials.

    exp(q . k) = E_w[ phi_w(q) phi_w(k) ],       w ~ N(0, I),     q and k divided by h^(1/4)

    positive        phi_w(x) = exp(w . x - |x|^2 / 2)
    trigonometric   phi_w(x) = exp(|x|^2 / 2) (cos(w . x), sin(w . x))
    relu            phi_w(x) = max(w . x, 0) + 0.001, a kernel of its own

Choromanski et al., Rethinking Attention with Performers, 2020, arXiv 2009.14794: lemma 1 (positive), eq. 9 and 10
(trigonometric), sec. 2.2 and 5.4 (ReLU), sec. 2.4 (orthogonal w, redrawn), appendix B.1 (stabilisation).

The paper's code subtracts the greatest exponent of all keys, later ones too, before it exponentiates. So that the past
does not depend on the future, causal attention here subtracts the greatest so far, as an online softmax does: when it
grows, the state decays by as much.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from arch.ops.linear_attention.kernelised import causal_kernel_attention, kernel_attention, reversed_starts
from arch.ops.linear_attention.recurrence import CHUNK, linear_attention
from arch.typing import Array, Bool, Float, Int, Key

Kernel = Literal["positive", "trigonometric", "relu"]
FLOORS = {"positive": 1e-6, "trigonometric": 0.0, "relu": 1e-3}
"""What is added to each feature."""
LOWEST = -1e30
"""The greatest exponent where there is no key yet."""


def draw(
    key: Key[Array, ""],
    num_features: int,
    head_dim: int,
    *,
    orthogonal: bool = True,
    norms: Literal["chi", "constant"] = "chi",
) -> Float[Array, "m h"]:
    """Vectors w in rows.

    Args:
      key: of the draw.
      num_features: m.
      head_dim: h.
      orthogonal: in blocks of h rows that are orthogonal to each other, each row distributed as if it were alone.
      norms: of orthogonal rows: 'chi' as of normal vectors, for which the kernel is unbiased; 'constant' is sqrt(h),
        the regularised kernel of the paper's sec. 4.
    """
    of_blocks, of_norms = jax.random.split(key)
    normal = jax.random.normal(of_norms, (num_features, head_dim))
    if not orthogonal:
        return normal
    count = -(-num_features // head_dim)
    square, upper = jnp.linalg.qr(jax.random.normal(of_blocks, (count, head_dim, head_dim)))
    square = square * jnp.sign(jnp.diagonal(upper, axis1=1, axis2=2))[:, None]  # uniform over all rotations
    rows = square.mT.reshape(-1, head_dim)[:num_features]
    length = jnp.linalg.norm(normal, axis=1, keepdims=True) if norms == "chi" else head_dim**0.5
    return rows * length


def redrawn(key: Key[Array, ""], step: Int[Array, ""] | int, every: int, current: Float[Array, "m h"], **choices):
    """[m h] the vectors for this step: those of `draw(fold_in(key, step))` where `step` is a multiple of `every`.

    Args:
      key: of the run.
      step: of training, from 0.
      every: steps between draws; 0 for never.
      current: the vectors up to now.
      **choices: of `draw`.
    """
    if not every:
        return current
    anew = lambda: draw(jax.random.fold_in(key, step), *current.shape, **choices).astype(current.dtype)
    return jax.lax.cond((step % every == 0) & (step > 0), anew, lambda: current)


def favor_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    vectors: Float[Array, "m h"],
    *,
    kernel: Kernel = "positive",
    causal: bool = True,
    state: tuple[Float[Array, "b n r _"], Float[Array, "b n"]] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = CHUNK,
    recurrence: Callable = linear_attention,
) -> tuple[Float[Array, "b t n v"], tuple[Float[Array, "b n r v+1"], Float[Array, "b n"]] | None]:
    """Approximates softmax(q k^T / sqrt(h)) v, in time linear in t; or the attention of the ReLU kernel.

    Args:
      query: not scaled.
      key: not scaled.
      value: what is averaged.
      vectors: w, from `draw`.
      kernel: 'positive', 'trigonometric' (twice the features), or 'relu'.
      causal: a token sees only itself and what came before.
      state: of causal attention: sums over the tokens before, and their greatest exponent (see `empty_state`).
      reset: True at the first token of a packed segment.
      valid: False for tokens that none sees; what comes out at these has no meaning.
      chunk: tokens that are multiplied at a time, a power of two.
      recurrence: what sums up causally, `linear_attention` or a kernel that is called like it.

    Returns:
      o in value.dtype, and the state after the last token in float32 or wider; None if not causal.
    """
    b, _, n, h = key.shape
    wide = jnp.promote_types(jnp.result_type(query, key, value), jnp.float32)
    (query_log, query_factor), (key_log, key_factor) = (
        features(h**-0.25 * x.astype(wide), vectors.astype(wide), kernel) for x in (query, key)
    )
    if valid is not None:
        key_log = jnp.where(valid[..., None, None], key_log, LOWEST)
        reset = None if reset is None else reset & valid
    if state is None:
        sums, before = None, jnp.full((b, n), LOWEST, wide)
    else:
        sums, before = state[0], state[1].astype(wide)
    greatest = jax.lax.stop_gradient(jnp.max(key_log, axis=-1))
    upto = running_max(greatest, before, reset) if causal else _max_of_segment(greatest, reset)
    own = jax.lax.stop_gradient(jnp.max(query_log, axis=-1, keepdims=True))
    query = jnp.exp(query_log - own) * query_factor + FLOORS[kernel]
    key = jnp.exp(key_log - upto[..., None]) * key_factor + FLOORS[kernel]
    if not causal:
        return kernel_attention(query, key, value, reset=reset, valid=valid, chunk=chunk), None
    growth = upto - jnp.concatenate([before[:, None], upto[:, :-1]], axis=1)
    log_decay = None if kernel == "relu" else -jnp.maximum(growth, 0)[..., None]
    given = dict(state=sums, reset=reset, valid=valid, chunk=chunk, recurrence=recurrence)
    out, sums = causal_kernel_attention(query, key, value, log_decay, **given)
    return out, (sums, upto[:, -1])


def empty_state(batch: int, num_heads: int, num_features: int, channels: int, kernel: Kernel):
    """The state of `favor_attention` before any token, for values of so many channels; float32."""
    features = num_features * (2 if kernel == "trigonometric" else 1)
    sums = jnp.zeros((batch, num_heads, features, channels + 1), jnp.float32)
    return sums, jnp.full((batch, num_heads), LOWEST, jnp.float32)


def features(x: Float[Array, "b t n h"], vectors: Float[Array, "m h"], kernel: Kernel):
    """(log scale [b t n 1 or m], factor [b t n m]), whose product exp(log) * factor are the features."""
    projected = jnp.einsum("btnh,mh->btnm", x, vectors)
    if kernel == "relu":
        return jnp.zeros_like(projected[..., :1]), jnp.maximum(projected, 0)
    half_square = jnp.sum(jnp.square(x), axis=-1, keepdims=True) / 2
    if kernel == "positive":
        return projected - half_square, jnp.ones_like(projected[..., :1])
    return half_square, jnp.concatenate([jnp.cos(projected), jnp.sin(projected)], axis=-1)


def running_max(
    x: Float[Array, "b t n"], before: Float[Array, "b n"], reset: Bool[Array, "b t"] | None
) -> Float[Array, "b t n"]:
    """The greatest of each token and those before it in its segment, `before` among those of a row's first segment."""
    x = jnp.concatenate([before[:, None], x], axis=1)
    if reset is None:
        return jax.lax.cummax(x, axis=1)[:, 1:]
    starts = jnp.pad(reset, ((0, 0), (1, 0)))[..., None]

    def later(left, right):
        return left[0] | right[0], jnp.where(right[0], right[1], jnp.maximum(left[1], right[1]))

    return jax.lax.associative_scan(later, (starts, x), axis=1)[1][:, 1:]


def _max_of_segment(x, reset):
    if reset is None:
        return jnp.broadcast_to(jnp.max(x, axis=1, keepdims=True), x.shape)
    lowest = jnp.full_like(x[:, 0], LOWEST)
    right = running_max(jnp.flip(x, 1), lowest, reversed_starts(reset))
    return jnp.maximum(running_max(x, lowest, reset), jnp.flip(right, 1))
