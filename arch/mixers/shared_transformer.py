"""A layer of a transformer that several places of a model share, each with low-rank adapters of its own (Zamba2).

    c = norm([x; e])
    a = attention(c (W_Q + A_Q B_Q), c (W_K + A_K B_K), c (W_V + A_V B_V)) W_O
    m = norm(a)
    y = (act(m (W_G + A B_G)) * m (W_U + A B_U)) W_D W

x is the stream as it is, e what the first layer of the stack read, the embedded tokens. What is shared is all but W and
the A and B. Nothing is added to x: what follows reads the sum x + y (`nested` of `arch.layers.block`).

Glorioso et al., The Zamba2 Suite: Technical Report, 2024, arXiv 2411.15242, sec. II, and Zamba: A Compact 7B SSM Hybrid
Model, 2024, arXiv 2405.16712, sec. 2, which has no adapters; the logits' factor is that of the released code. The B
start at 0, as in Hu et al., LoRA, 2021, arXiv 2106.09685, where the released code starts with normal values.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers import norm
from arch.layers.contract import Context, Output, SublayerConfig, check_group
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.mixers import attention
from arch.mixers._heads import from_heads, to_heads
from arch.ops.activation import ACTIVATIONS, Activation
from arch.ops.linear import linear
from arch.positions import none, rope
from arch.sharding.mesh import constrain, platform
from arch.typing import Array, Float


@config.frozen
class Layer(config.Config):
    """What is shared.

    Attributes:
      num_heads: heads.
      head_dim: channels a head; 2 embed_dim / num_heads in the paper.
      hidden_dim: channels of the perceptron.
      activation: of its gate.
      position: the position scheme, one that acts on heads.
      epsilon: of both norms.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    hidden_dim: config.PositiveInt
    activation: Activation = "gelu"
    position: config.choice("positions") = none.Config()
    epsilon: config.PositiveFloat = 1e-5

    def check(self):
        self.position.must_act("heads")

    @property
    def attention(self) -> attention.Config:
        """How the heads attend. The logits are divided by sqrt(h / 2), as if heads were as wide as those of x alone."""
        heads = dict(num_heads=self.num_heads, head_dim=self.head_dim, position=self.position)
        return attention.Config(**heads, scale=(self.head_dim / 2) ** -0.5)

    def make(self, name: str | None = None) -> "Transformer":
        """The Linen module."""
        return Transformer(self, name=name)


@config.frozen
class Config(SublayerConfig):
    """One place of the layer.

    Attributes:
      layer: what is shared.
      group: places of a stack with the same non-empty group share the layer.
      attention_rank: of the adapters of query, key and value; 0 for none.
      ffn_rank: of the adapters of the perceptron's gate and its other half, which have one A; 0 for none.
    """

    layer: Layer
    group: str = ""
    attention_rank: config.SizeOrZero = 0
    ffn_rank: config.SizeOrZero = 0

    normalizes: ClassVar[bool] = True
    reads_embedding: ClassVar[bool] = True

    def check(self):
        check_group(self.group)

    def groups(self) -> dict[str, Layer]:
        """The layer, where it is shared."""
        return {self.group: self.layer} if self.group else {}

    def make(self, name: str | None = None) -> "SharedTransformer":
        """The Linen module."""
        return SharedTransformer(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """That of attention."""
        return self.layer.attention.init_cache(batch, length, embed_dim, dtype)

    def flops(self, row: Row) -> Flops:
        """Attention, whose query, key and value are of rows twice as wide, the perceptron, the adapters and W."""
        d, own, hidden = row.embed_dim, self.layer.num_heads * self.layer.head_dim, self.layer.hidden_dim
        wider = 3 * d * own + 3 * d * hidden + d * d
        adapters = 3 * self.attention_rank * (2 * d + own) + self.ffn_rank * (d + 2 * hidden)
        return self.layer.attention.flops(row) + multiply_adds(row.length * (wider + adapters))


class Transformer(nn.Module):
    """The layer, as a function of adapters too: (A, B) of query, key and value, and (A, B_G, B_U) of the perceptron."""

    cfg: Layer

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        context: Context,
        cache: dict | None = None,
        adapters: dict[str, tuple[Array, ...]] | None = None,
    ) -> Output:
        if context.embedding is None:
            raise ValueError("context.embedding=None must be the embedded tokens: a stack gives them")
        cfg, adapters, product = self.cfg, adapters or {}, partial(linear, platform=platform())
        rms = norm.Config(kind="rms", epsilon=cfg.epsilon)
        both = rms.make("norm")(jnp.concatenate([x, context.embedding.astype(x.dtype)], axis=-1))

        def heads(name):
            out = to_heads(self, name, both, cfg.num_heads, cfg.head_dim)
            if name not in adapters:
                return out
            down, up = adapters[name]
            return out + product(product(both, down), up)

        query, key = (cfg.position.rotate(heads(name), context.positions) for name in ("query", "key"))
        out, cache = attention.attend_heads(cfg.attention, query, key, heads("value"), None, None, context, cache)
        hidden = rms.make("ffn_norm")(from_heads(self, out, x.shape[-1]))

        own, d, f = partial(weight, self, dtype=x.dtype), x.shape[-1], cfg.hidden_dim
        gate, up = (product(hidden, own(name, normal(d**-0.5), embed=d, hidden=f)) for name in ("gate", "up"))
        if "ffn" in adapters:
            down, of_gate, of_up = adapters["ffn"]
            low = product(hidden, down)
            gate, up = gate + product(low, of_gate), up + product(low, of_up)
        inner = constrain(ACTIVATIONS[cfg.activation](gate) * up, "batch", "sequence", "hidden")
        return Output(product(inner, own("down", normal(f**-0.5), hidden=f, embed=d)), cache)


class SharedTransformer(nn.Module):
    """The layer with this place's adapters, and what makes of its result what follows reads."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, given = self.cfg, (x, context, cache, self._adapters(x))
        if not cfg.group:
            out = cfg.layer.make("layer")(*given)
        elif cfg.group in context.parameters:
            out = Transformer(cfg.layer, parent=None).apply({"params": context.parameters[cfg.group]}, *given)
        else:
            raise ValueError(f"group={cfg.group!r} must be in context.parameters: a stack gives them")
        d = x.shape[-1]
        kernel = weight(self, "out", normal(d**-0.5), dtype=x.dtype, hidden=d, embed=d)
        return dataclasses.replace(out, x=linear(out.x, kernel, platform=platform()))

    def _adapters(self, x) -> dict[str, tuple[Array, ...]]:
        """By what they change."""
        cfg, layer, d, f = self.cfg, self.cfg.layer, x.shape[-1], self.cfg.layer.hidden_dim
        own, found = partial(weight, self, dtype=x.dtype), {}
        heads, rank = dict(heads=layer.num_heads, head_dim=layer.head_dim), cfg.attention_rank
        for name in ("query", "key", "value") if rank else ():
            down = own(f"{name}_down", normal((2 * d) ** -0.5), embed=2 * d, rank=rank)
            found[name] = down, own(f"{name}_up", constant(0.0), rank=rank, **heads)
        if rank := cfg.ffn_rank:
            down = own("ffn_down", normal(d**-0.5), embed=d, rank=rank)
            found["ffn"] = down, *(own(f"ffn_{half}", constant(0.0), rank=rank, hidden=f) for half in ("gate", "up"))
        return found


EXAMPLES = (
    Config(
        layer=Layer(num_heads=3, head_dim=4, hidden_dim=41, activation="silu", position=rope.Config(theta=9.0)),
        attention_rank=3,
        ffn_rank=2,
    ),
)
