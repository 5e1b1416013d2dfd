"""Retention (RetNet): linear attention whose past fades at a fixed rate a head, behind a norm and a gate.

    (silu(x W_G) * norm_of_each_head(o)) W_O,     o_i = sum_{j <= i} gamma^(i - j) (q_i . k_j) v_j,
    q = rotate(x W_Q) / sqrt(h),   k = rotate(x W_K),   v = x W_V,     gamma = 1 - 2^(-5 - n) for head n = 0, 1 ...

Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023, arXiv 2307.08621, sec. 2.1,
2.2 and eq. 8. With the fading, the rotation is xPos (Sun et al., 2022, arXiv 2212.10554). The norm divides each head by
its root mean square, without a scale, as the released code does; the paper's further divisions of the scores (sec. 2.2)
are left out, since the norm undoes them.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.mixers import _recurrence
from arch.mixers._heads import borders, from_heads, projections, to_heads
from arch.ops.linear_attention.recurrence import check_chunk, products
from arch.ops.norm import rms_norm
from arch.positions import rope
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Retention.

    Attributes:
      num_heads: heads.
      head_dim: channels of a head's query and key.
      value_dim: channels of a head's value; 0 for twice head_dim, as in the paper.
      position: the position scheme, one that acts on heads.
      rates: 1 - gamma of the heads: 'octaves', each half of the one before, from 1/32 on (eq. 8); or 'even', as many as
        there are heads, evenly from 1/32 to 1/512 by their logarithms, as in the paper's experiments (sec. 3.1).
      epsilon: of the norm.
      chunk: tokens that are multiplied at a time, a power of two.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    value_dim: config.SizeOrZero = 0
    position: config.choice("positions") = rope.Config(pairing="interleaved")
    rates: Literal["octaves", "even"] = "octaves"
    epsilon: config.PositiveFloat = 1e-5
    chunk: config.PositiveInt = 64

    def check(self):
        self.position.must_act("heads")
        check_chunk(self.chunk)

    @property
    def values(self) -> int:
        """Channels of a head's value, with the default resolved."""
        return self.value_dim or 2 * self.head_dim

    def make(self, name: str | None = None) -> "Retention":
        """The Linen module."""
        return Retention(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The state [b n h v], whatever the length."""
        return {"state": jnp.zeros((batch, self.num_heads, self.head_dim, self.values), jnp.float32)}

    def flops(self, row: Row) -> Flops:
        """Five projections, and what is written to the state and read from it; executed: in chunks."""
        h, v = self.head_dim, self.values
        around = projections(row, self.num_heads, h, h, v, v, v)
        required, executed = (
            self.num_heads * count for count in products(row.length, h, v, decay="head", chunk=self.chunk)
        )
        return multiply_adds(around + required, executed=around + executed)


def log_decays(num_heads: int, rates: Literal["octaves", "even"] = "octaves") -> np.ndarray:
    """[n] log gamma of each head."""
    last = -4 - num_heads if rates == "octaves" else -9
    return np.log1p(-(2.0 ** np.linspace(-5, last, num_heads)))


class Retention(nn.Module):
    """Retention over x, or over x and what the state holds."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, n = self.cfg, self.cfg.num_heads
        query, key = (
            cfg.position.rotate(to_heads(self, name, x, n, cfg.head_dim), context.positions)
            for name in ("query", "key")
        )
        value, gate = (to_heads(self, name, x, n, cfg.values) for name in ("value", "gate"))
        decay = jnp.asarray(log_decays(n, cfg.rates), jnp.float32)[None, None, :, None]
        state = None if cache is None else cache["state"]
        query = query * cfg.head_dim**-0.5
        out, state = _recurrence.linear_attention(
            query, key, value, decay, state=state, chunk=cfg.chunk, **borders(context)
        )
        out = jax.nn.silu(gate) * rms_norm(out, jnp.ones(cfg.values), epsilon=cfg.epsilon)
        return Output(from_heads(self, out, x.shape[-1]), None if cache is None else {"state": state})


EXAMPLES = (Config(chunk=16, num_heads=3, head_dim=4, value_dim=5),)
