"""Linear attention: a kernel of features in place of the softmax, so that decoding keeps one matrix a head.

    x W_O  of  (phi(q) sum_j phi(k_j) v_j^T) / (phi(q) . sum_j phi(k_j)),     q, k, v = x W_Q, x W_K, x W_V

Katharopoulos et al., Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, 2020, arXiv
2006.16236, sec. 3.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.mixers import _recurrence
from arch.mixers._heads import borders, from_heads, projections, to_heads
from arch.ops.linear_attention.kernelised import FEATURE_MAPS, causal_kernel_attention, kernel_attention
from arch.ops.linear_attention.recurrence import check_chunk, products
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Linear attention.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      features: phi: 'elu' for elu + 1, or 'relu'.
      causal: a token sees only itself and what came before.
      chunk: tokens that are multiplied at a time, a power of two.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    features: Literal["elu", "relu"] = "elu"
    causal: bool = True
    chunk: config.PositiveInt = 64

    def check(self):
        check_chunk(self.chunk)

    def make(self, name: str | None = None) -> "LinearAttention":
        """The Linen module."""
        return LinearAttention(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """Sums of phi(k) v^T and, last, of phi(k): [b n h h+1], whatever the length."""
        return {"state": jnp.zeros((batch, self.num_heads, self.head_dim, self.head_dim + 1), jnp.float32)}

    def lacks(self) -> tuple[str, ...]:
        """Attention that looks ahead is not causal, and has no state, nor one that devices exchange."""
        return () if self.causal else ("causal", "cache", "context")

    def flops(self, row: Row) -> Flops:
        """Four projections, and what is written to the state and read from it; executed: in chunks."""
        h = self.head_dim
        around = projections(row, self.num_heads, h, h, h, h)
        required, executed = products(row.length, h, h + 1, chunk=self.chunk)
        executed = executed if self.causal else required
        return multiply_adds(around + self.num_heads * required, executed=around + self.num_heads * executed)


class LinearAttention(nn.Module):
    """Linear attention over x, or over x and what the state sums up."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, phi = self.cfg, FEATURE_MAPS[self.cfg.features]
        query, key, value = (to_heads(self, name, x, cfg.num_heads, cfg.head_dim) for name in ("query", "key", "value"))
        if cfg.causal:
            state = None if cache is None else cache["state"]
            out, state = causal_kernel_attention(
                phi(query),
                phi(key),
                value,
                state=state,
                chunk=cfg.chunk,
                recurrence=_recurrence.linear_attention,
                **borders(context),
            )
            cache = None if cache is None else {"state": state}
        else:
            out = kernel_attention(phi(query), phi(key), value, chunk=cfg.chunk, **borders(context))
        return Output(from_heads(self, out, x.shape[-1]), cache)


EXAMPLES = (
    Config(chunk=8, num_heads=3, head_dim=5),
    Config(chunk=8, num_heads=2, head_dim=4, features="relu", causal=False),
)
