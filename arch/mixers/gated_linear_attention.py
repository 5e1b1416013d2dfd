"""Gated linear attention (GLA): linear attention in which each token says how far each channel of the past fades.

    (silu(x W_R + b_R) * norm_of_each_head(o)) W_O,     S_t = diag(alpha_t) S_{t-1} + k_t v_t^T,     o_t = q_t S_t,
    q = x W_Q / sqrt(h),   k = x W_K,   v = x W_V,     alpha = sigmoid(x W_1 W_2 + b)^(1/16)

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023, arXiv 2312.06635, sec. 4.4. The
norm is RMSNorm, as in the released code, where the paper has LayerNorm. The released code has no b_R.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.mixers import _recurrence
from arch.mixers._heads import borders, from_heads, projections, to_heads
from arch.ops.linear_attention.recurrence import check_chunk, products
from arch.ops.norm import rms_norm
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Gated linear attention.

    Attributes:
      num_heads: heads, 4 in the paper.
      head_dim: channels of a head's query and key; all heads together have embed_dim / 2 in the paper.
      value_dim: channels of a head's value; 0 for twice head_dim, as in the paper.
      gate_rank: of the projection to the decays.
      temperature: root that is taken of the decays, so that they start near 1.
      gate_bias: whether there is b_R.
      epsilon: of the norm.
      chunk: tokens that are multiplied at a time, a power of two.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    value_dim: config.SizeOrZero = 0
    gate_rank: config.PositiveInt = 16
    temperature: config.PositiveFloat = 16.0
    gate_bias: bool = True
    epsilon: config.PositiveFloat = 1e-5
    chunk: config.PositiveInt = 64

    def check(self):
        check_chunk(self.chunk)

    @property
    def values(self) -> int:
        """Channels of a head's value, with the default resolved."""
        return self.value_dim or 2 * self.head_dim

    def make(self, name: str | None = None) -> "GatedLinearAttention":
        """The Linen module."""
        return GatedLinearAttention(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The state [b n h v], whatever the length."""
        return {"state": jnp.zeros((batch, self.num_heads, self.head_dim, self.values), jnp.float32)}

    def flops(self, row: Row) -> Flops:
        """Five projections, the decays, and what is written to the state and read from it; executed: in chunks."""
        n, h, v = self.num_heads, self.head_dim, self.values
        decays = row.length * self.gate_rank * (row.embed_dim + n * h)
        around = projections(row, n, h, h, v, v, v) + decays
        required, executed = (n * count for count in products(row.length, h, v, decay="channel", chunk=self.chunk))
        return multiply_adds(around + required, executed=around + executed)


class GatedLinearAttention(nn.Module):
    """Gated linear attention over x, or over x and what the state holds."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, n = self.cfg, self.cfg.num_heads
        query, key = (to_heads(self, name, x, n, cfg.head_dim) for name in ("query", "key"))
        value = to_heads(self, "value", x, n, cfg.values)
        gate = to_heads(self, "gate", x, n, cfg.values, bias=cfg.gate_bias)
        state = None if cache is None else cache["state"]
        query = query * cfg.head_dim**-0.5
        out, state = _recurrence.linear_attention(
            query, key, value, self._log_decay(x), state=state, chunk=cfg.chunk, **borders(context)
        )
        scale = weight(self, "norm", constant(1.0), head_dim=cfg.values)
        out = jax.nn.silu(gate) * rms_norm(out, scale, epsilon=cfg.epsilon)
        return Output(from_heads(self, out, x.shape[-1]), None if cache is None else {"state": state})

    def _log_decay(self, x: Float[Array, "b t d"]) -> Float[Array, "b t n h"]:
        """log alpha, in float32 from the low-rank form on."""
        cfg, d, rank = self.cfg, x.shape[-1], self.cfg.gate_rank
        low = x @ weight(self, "decay_down", normal(d**-0.5), dtype=x.dtype, embed=d, rank=rank)
        axes = dict(heads=cfg.num_heads, head_dim=cfg.head_dim)
        up = weight(self, "decay_up", normal(rank**-0.5), dtype=x.dtype, rank=rank, **axes)
        logits = jnp.einsum("btr,rnh->btnh", low, up).astype(jnp.promote_types(x.dtype, jnp.float32))
        return jax.nn.log_sigmoid(logits + weight(self, "decay_bias", constant(0.0), **axes)) / cfg.temperature


EXAMPLES = (Config(chunk=8, num_heads=2, head_dim=3, value_dim=5, gate_rank=2),)
