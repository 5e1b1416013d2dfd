"""Performer: softmax attention approximated through random features (FAVOR+), in time linear in the length.

    x W_O  of  favor(q, k, v),     q, k, v = rotate(x W_Q), rotate(x W_K), x W_V

Choromanski et al., Rethinking Attention with Performers, 2020, arXiv 2009.14794. The random vectors are one matrix a
layer, kept among the parameters and not trained; they may be redrawn as training goes on (sec. 4.2). The paper has no
rotation; released models do.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, weight
from arch.mixers import _recurrence
from arch.mixers._heads import borders, from_heads, projections, to_heads
from arch.ops.linear_attention import favor
from arch.ops.linear_attention.recurrence import check_chunk, products
from arch.positions import none, rope
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Performer.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      num_features: random vectors.
      kernel: 'positive', 'trigonometric' (which has twice the features), or 'relu', a kernel of its own.
      orthogonal: the vectors are orthogonal to each other, in blocks of head_dim.
      norms: of orthogonal vectors: 'chi' as those of normal ones, or 'constant'.
      position: the position scheme, one that acts on heads.
      redraw_every: steps of training after which new vectors are drawn; 0 to keep the first.
      causal: a token sees only itself and what came before.
      chunk: tokens that are multiplied at a time, a power of two.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    num_features: config.PositiveInt = 256
    kernel: favor.Kernel = "positive"
    orthogonal: bool = True
    norms: Literal["chi", "constant"] = "chi"
    position: config.choice("positions") = none.Config()
    redraw_every: config.SizeOrZero = 0
    causal: bool = True
    chunk: config.PositiveInt = 64

    def check(self):
        self.position.must_act("heads")
        check_chunk(self.chunk)

    def make(self, name: str | None = None) -> "Performer":
        """The Linen module."""
        return Performer(self, name=name)

    @property
    def draw(self):
        """The function (key, (m, h)) -> vectors."""
        return lambda key, shape: favor.draw(key, *shape, orthogonal=self.orthogonal, norms=self.norms)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The sums over features and their scale (see `favor.empty_state`), whatever the length."""
        state = favor.empty_state(batch, self.num_heads, self.num_features, self.head_dim, self.kernel)
        return dict(zip(("state", "scale"), state))

    def lacks(self) -> tuple[str, ...]:
        """Attention that looks ahead is not causal, and has no state; exponents are compared with those before them."""
        return ("context",) if self.causal else ("causal", "cache", "context")

    def flops(self, row: Row) -> Flops:
        """Four projections, the features, and what is written to the state and read from it; executed: in chunks."""
        h, m = self.head_dim, self.num_features
        around = projections(row, self.num_heads, h, h, h, h) + 2 * row.length * self.num_heads * h * m
        features = 2 * m if self.kernel == "trigonometric" else m
        required, executed = products(
            row.length, features, h + 1, decay="none" if self.kernel == "relu" else "head", chunk=self.chunk
        )
        executed = executed if self.causal else required
        return multiply_adds(around + self.num_heads * required, executed=around + self.num_heads * executed)

    def update(self, buffers: Mapping[str, Array], stats: Mapping[str, Array]) -> Mapping[str, Array]:
        """The vectors of the next step, which depend on the layer's seed and the number of steps alone."""
        if not self.redraw_every:
            return buffers
        step = buffers["step"] + 1
        key = jax.random.key(buffers["seed"][0].astype(jnp.uint32))
        choices = dict(orthogonal=self.orthogonal, norms=self.norms)
        number = step[0].astype(jnp.int32)
        vectors = favor.redrawn(key, number, self.redraw_every, buffers["vectors"], **choices)
        return dict(buffers) | {"vectors": vectors, "step": step}


def seed_init(key, shape):
    """Integers that float32 has exactly."""
    return jax.random.randint(key, shape, 0, 2**24).astype(jnp.float32)


class Performer(nn.Module):
    """FAVOR+ over x, or over x and what the state sums up."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, buffer = self.cfg, partial(weight, self, trainable=False)
        vectors = jax.lax.stop_gradient(buffer("vectors", cfg.draw, state=cfg.num_features, head_dim=cfg.head_dim))
        if cfg.redraw_every:  # read by `update`
            buffer("seed", seed_init, state=1)
            buffer("step", constant(0.0), state=1)
        query, key, value = (to_heads(self, name, x, cfg.num_heads, cfg.head_dim) for name in ("query", "key", "value"))
        query, key = (cfg.position.rotate(heads, context.positions) for heads in (query, key))
        state = None if cache is None or not cfg.causal else (cache["state"], cache["scale"])
        out, state = favor.favor_attention(
            query,
            key,
            value,
            vectors,
            kernel=cfg.kernel,
            causal=cfg.causal,
            state=state,
            chunk=cfg.chunk,
            recurrence=_recurrence.linear_attention,
            **borders(context),
        )
        if cache is not None and cfg.causal:
            cache = dict(zip(("state", "scale"), state))
        return Output(from_heads(self, out, x.shape[-1]), cache)


EXAMPLES = (
    Config(chunk=8, num_heads=3, head_dim=4, num_features=6, redraw_every=2),
    Config(chunk=8, num_heads=2, head_dim=6, num_features=7, position=rope.Config(), causal=False),
)
