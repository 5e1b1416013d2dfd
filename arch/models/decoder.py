"""Decoder language model: embedding, a stack of any blocks, final norm, unembedding.

GPT, LLaMA, Mixtral, Mamba, Jamba and their mixtures are this shell around different blocks.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers import embedding as embeddings
from arch.layers import norm as norms
from arch.layers import stack
from arch.layers.contract import Context, Output, positions_of
from arch.layers.flops import Flops, Row, multiply_adds
from arch.ops.dropout import dropout
from arch.positions import none
from arch.typing import Array, Int


@config.frozen
class Config(config.Config):
    """Decoder.

    Attributes:
      vocab_size: ids the model knows; at least the tokenizer's size.
      embed_dim: width of the residual stream.
      layers: the stack.
      embedding: start and scale of the embedding table.
      position: what is added to the embedded tokens, a scheme that acts at the input.
      embedding_norm: a norm right behind that (BLOOM).
      norm: the norm before the unembedding.
      final_norm: whether there is one; post-norm stacks end in a norm of their own.
      tie_embeddings: the unembedding is the embedding's table.
      dropout: probability of zeroing an entry of the embedded tokens.
      logit_scale: factor of what the unembedding reads (T5: embed_dim ** -0.5).
      logit_soft_cap: bound of the logits; 0 for none.
      dtype: in which the layers compute; parameters stay float32.
    """

    vocab_size: config.PositiveInt
    embed_dim: config.PositiveInt
    layers: stack.Config
    embedding: embeddings.Config = embeddings.Config()
    position: config.choice("positions") = none.Config()
    embedding_norm: bool = False
    norm: norms.Config = norms.Config()
    final_norm: bool = True
    tie_embeddings: bool = True
    dropout: config.Fraction = 0.0
    logit_scale: config.PositiveFloat = 1.0
    logit_soft_cap: config.NonNegativeFloat = 0.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def check(self):
        self.position.must_act("input")

    def make(self) -> "Decoder":
        """The Linen module."""
        return Decoder(self)

    @property
    def max_length(self) -> int:
        """Tokens that a row may have at most; 0 for any number."""
        return self.position.max_length

    def init_cache(self, batch: int, length: int) -> tuple[dict, ...]:
        """One empty cache a layer, for so many rows of so many tokens.

        Raises:
          ValueError: there are fewer learned positions than tokens.
        """
        self.position.must_know(length)
        return self.layers.init_cache(batch, length, self.embed_dim, jnp.dtype(self.dtype))

    def flops(self, length: int) -> Flops:
        """Of a forward pass over one row of so many tokens, logits of all of them among it."""
        return self.layers.flops(Row(length, self.embed_dim)) + multiply_adds(length * self.embed_dim * self.vocab_size)

    def idle_parameters(self) -> int:
        """Weights of the layers that a token does not meet: those of the experts that it is not sent to."""
        return self.layers.idle_parameters(self.embed_dim)

    def update(self, buffers: dict, stats: dict) -> dict:
        """The next non-trained leaves, in canonical form, from the mean statistics of a training step."""
        own = {name.removeprefix("layers/"): value for name, value in stats.items() if name.startswith("layers/")}
        return {name: self.layers.update(tree, own) if name == "layers" else tree for name, tree in buffers.items()}


class Decoder(nn.Module):
    """tokens -> logits; or in two parts: `hidden`, and the unembedding that comes with the hidden states."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        self.embedding = cfg.embedding.make(cfg.vocab_size, cfg.embed_dim, cfg.tie_embeddings)
        self.position = embeddings.AddPosition(cfg.position)
        if cfg.embedding_norm:
            self.embedding_norm = cfg.norm.make()
        self.layers = cfg.layers.make()
        if cfg.final_norm:
            self.norm = cfg.norm.make()

    def __call__(self, tokens: Int[Array, "b t"], context: Context | None = None, cache: Any = None) -> Output:
        """Logits of the token after each one.

        Args:
          tokens: [b t] ids.
          context: what the layers may read; None for rows that are neither packed nor padded, from position 0.
          cache: from `Config.init_cache`; None for a pass without one.

        Returns:
          Output with x = logits [b t v] in float32.
        """
        out = self.hidden(tokens, context, cache)
        return dataclasses.replace(out, x=out.shared["unembed"](out.x), shared={})

    def hidden(self, tokens: Int[Array, "b t"], context: Context | None = None, cache: Any = None) -> Output:
        """As the call, but with x = hidden states [b t d], and `shared["unembed"]`, which makes the logits of them."""
        cfg = self.cfg
        if context is None:
            cfg.position.must_know(tokens.shape[1])
            context = Context(positions=positions_of(tokens))
        if cache is not None and context.segment_ids is not None:
            raise ValueError("segment_ids must be None with a cache: a cache holds one document a row")
        context = dataclasses.replace(context, tokens=tokens)
        x = self.position(self.embedding.encode(tokens, jnp.dtype(cfg.dtype)), context)
        if cfg.embedding_norm:
            x = self.embedding_norm(x)
        if cfg.dropout and not context.deterministic:
            x = dropout(x, context.fold(len(cfg.layers.blocks)).key, rate=cfg.dropout)
        out = self.layers(x, context, cache)
        x = self.norm(out.x) if cfg.final_norm else out.x
        x = x * jnp.asarray(cfg.logit_scale, x.dtype)
        unembed = self.embedding.unembedding(x.dtype, cfg.logit_soft_cap)
        return Output(x, out.cache, out.aux.under("layers"), {"unembed": unembed})
