"""The gated delta rule: a state that decays, and whose entry at a key is replaced by the new value, not added to.

    S_t = a_t S_{t-1} + u_t k_t^T,    u_t = beta_t (v_t - a_t S_{t-1} k_t),    y_t = S_t q_t

Source: Yang, Kautz & Hatamizadeh 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule" (arXiv 2412.06464,
equation 10). Given the u_t it is the recurrence of `arch.ops.ssd`. Within a chunk that starts from S_0 they solve

    u_i + beta_i sum_{j<i} (a_{j+1} ... a_i) (k_i . k_j) u_j = beta_i (v_i - (a_1 ... a_i) S_0 k_i)

a unit lower triangular system, whose inverse is the WY form of sec. 3.3. All arithmetic is in float32 (float64 if an
argument is).
"""

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from arch.ops import ssd
from arch.typing import Array, Bool, Float


def gated_delta(
    query: Float[Array, "b t k m"],
    key: Float[Array, "b t k m"],
    value: Float[Array, "b t n h"],
    log_decay: Float[Array, "b t n"],
    beta: Float[Array, "b t n"],
    *,
    state: Float[Array, "b n h m"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    chunk: int = 64,
    implementation: ssd.Implementation | None = None,
) -> tuple[Float[Array, "b t n h"], Float[Array, "b n h m"]]:
    """Runs the rule over time from a given state.

    Args:
      query: what each token reads; k groups, each shared by n / k heads in order.
      key: where each token writes; of length 1 for a stable recurrence.
      value: what it writes there.
      log_decay: log a, <= 0; a token with 0 here and a beta of 0 leaves the state as it was.
      beta: how much of what stood there is replaced, from 0 to 1.
      state: S before the first token; None is zeros.
      reset: true at the first token of a packed segment, whose incoming state is then zero.
      chunk: tokens that are solved for at a time; the backward pass keeps one state for each chunk.
      implementation: 'chunked' has matrix products and a triangular solve within chunks and a scan over them;
        'quadratic' is one chunk; 'recurrent' goes token by token. None is 'recurrent' for one token, else 'chunked'.

    Returns:
      y in value.dtype and the state after the last token, in float32 or wider.

    Raises:
      ValueError: chunk, implementation or the number of heads is not as said here.
    """
    how = dict(state=state, reset=reset, chunk=chunk, implementation=implementation)
    return ssd.run(query, key, value, log_decay, beta, token_step=_token_step, chunk_step=_chunk_step, **how)


def _token_step(S, token: ssd.Tokens, beta):
    key = token.key[:, :, None, None, :]
    decay = jnp.where(token.reset[:, None, None], 0, jnp.exp(token.log_decay))
    S = decay[..., None, None] * S
    S += (beta[..., None] * (token.value - jnp.sum(S * key, axis=-1)))[..., None] * key
    return S, jnp.sum(S * token.query[:, :, None, None, :], axis=-1)


def _chunk_step(S: Float[Array, "b k g h m"], tokens: ssd.Tokens, beta: Float[Array, "b c k g"]):
    """The state after a chunk and its results, from the state before it."""
    within, entering, _ = ssd.decays(tokens.log_decay, tokens.reset)
    by_head = jnp.moveaxis(beta, 1, -1)[..., None]  # [b k g i 1]
    overlaps = jnp.einsum("bikm,bjkm->bkij", tokens.key, tokens.key)[:, :, None] * within
    stood = jnp.einsum("bikm,bkghm->bikgh", tokens.key, S) * entering[..., None]
    new = by_head * jnp.moveaxis(tokens.value - stood, 1, -2)  # [b k g i h]
    # the strict lower triangle alone is read, and ones on the diagonal
    written = solve_triangular(by_head * overlaps, new, lower=True, unit_diagonal=True)
    return ssd.chunk_step(S, tokens._replace(value=jnp.moveaxis(written, -2, 1)))
