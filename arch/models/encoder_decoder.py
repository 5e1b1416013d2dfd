"""Encoder-decoder: one stack reads the source both ways, another writes the target and attends to what the first made.

The 2017 Transformer and T5 are this shell: both stacks share the embedding table, and each layer of the decoder has
cross-attention to the encoder's output between its attention and its ffn.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers import embedding as embeddings
from arch.layers import norm as norms
from arch.layers import stack
from arch.layers.contract import Aux, Context, Memory, Output, positions_of
from arch.layers.flops import Flops, Row, multiply_adds
from arch.ops.dropout import dropout
from arch.positions import none
from arch.typing import Array, Float, Int


@config.frozen
class Config(config.Config):
    """Encoder-decoder.

    Attributes:
      vocab_size: ids the model knows; at least the tokenizer's size.
      embed_dim: width of both residual streams.
      encoder: the stack over the source.
      decoder: the stack over the target.
      embedding: start and scale of the embedding table.
      position: what is added to the embedded tokens of both, a scheme that acts at the input.
      norm: the norm behind each stack.
      final_norm: whether there is one; post-norm stacks end in a norm of their own.
      tie_embeddings: the unembedding is the embedding's table.
      dropout: probability of zeroing an entry of the embedded tokens.
      logit_scale: factor of what the unembedding reads (T5: embed_dim ** -0.5).
      dtype: in which the layers compute; parameters stay float32.
    """

    vocab_size: config.PositiveInt
    embed_dim: config.PositiveInt
    encoder: stack.Config
    decoder: stack.Config
    embedding: embeddings.Config = embeddings.Config()
    position: config.choice("positions") = none.Config()
    norm: norms.Config = norms.Config()
    final_norm: bool = True
    tie_embeddings: bool = True
    dropout: config.Fraction = 0.0
    logit_scale: config.PositiveFloat = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def check(self):
        self.position.must_act("input")

    def make(self) -> "EncoderDecoder":
        """The Linen module."""
        return EncoderDecoder(self)

    @property
    def max_length(self) -> int:
        """Tokens that a row may have at most; 0 for any number."""
        return self.position.max_length

    def init_cache(self, batch: int, length: int) -> tuple[dict, ...]:
        """One empty cache a layer of the decoder, for so many rows of so many target tokens.

        Raises:
          ValueError: there are fewer learned positions than tokens.
        """
        self.position.must_know(length)
        return self.decoder.init_cache(batch, length, self.embed_dim, jnp.dtype(self.dtype))

    def flops(self, length: int, source_length: int) -> Flops:
        """Of a forward pass over one pair of a source and a target of so many tokens, logits of the target among it."""
        d = self.embed_dim
        stacks = self.encoder.flops(Row(source_length, d)) + self.decoder.flops(Row(length, d, source_length, d))
        return stacks + multiply_adds(length * d * self.vocab_size)

    def idle_parameters(self) -> int:
        """Weights of the layers that a token does not meet: those of the experts that it is not sent to."""
        return sum(layers.idle_parameters(self.embed_dim) for layers in (self.encoder, self.decoder))

    def update(self, buffers: dict, stats: dict) -> dict:
        """The next non-trained leaves, in canonical form, from the mean statistics of a training step."""
        out = dict(buffers)
        for name, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            if name in buffers:
                prefix = f"{name}/layers/"
                own = {stat.removeprefix(prefix): value for stat, value in stats.items() if stat.startswith(prefix)}
                out[name] = buffers[name] | {"layers": layers.update(buffers[name]["layers"], own)}
        return out


class EncoderDecoder(nn.Module):
    """Source tokens -> memory (`encode`); target tokens and memory -> logits (the call); or both (`pair`)."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        self.embedding = cfg.embedding.make(cfg.vocab_size, cfg.embed_dim, cfg.tie_embeddings)
        self.encoder = Side(cfg, cfg.encoder)
        self.decoder = Side(cfg, cfg.decoder)

    def encode(self, source: Int[Array, "b s"], context: Context | None = None) -> Memory:
        """What the decoder reads of the source.

        Args:
          source: [b s] ids.
          context: of the source; None for rows that are neither packed nor padded.
        """
        return self._encode(source, self._context(source, context))[0]

    def __call__(self, tokens: Int[Array, "b t"], context: Context | None = None, cache: Any = None) -> Output:
        """Logits of the token after each one of the target.

        At `init`, where all weights have to be made, the tokens are also the source.

        Args:
          tokens: [b t] ids of the target.
          context: of the target, with `memory`.
          cache: from `Config.init_cache`; None for a pass without one.

        Returns:
          Output with x = logits [b t v] in float32.

        Raises:
          ValueError: packed rows with a cache, or no memory.
        """
        return _with_logits(self._hidden(tokens, context, cache))

    def _hidden(self, tokens, context: Context | None = None, cache: Any = None) -> Output:
        context = self._context(tokens, context)
        if cache is not None and context.segment_ids is not None:
            raise ValueError("segment_ids must be None with a cache: a cache holds one document a row")
        if self.is_initializing():
            context = dataclasses.replace(context, memory=self._encode(tokens, context)[0])
        x = self.embedding.encode(tokens, jnp.dtype(self.cfg.dtype))
        out = self.decoder(x, context.fold(1), cache)
        x = out.x * jnp.asarray(self.cfg.logit_scale, out.x.dtype)
        unembed = self.embedding.unembedding(x.dtype)
        return Output(x, out.cache, out.aux.under("decoder/layers"), {"unembed": unembed})

    def pair(
        self,
        source: Int[Array, "b s"],
        tokens: Int[Array, "b t"],
        source_context: Context | None = None,
        context: Context | None = None,
    ) -> Output:
        """Logits of the token after each one of the target, for a source that is encoded in the same pass: training.

        In packed rows a target's document reads the source's document of the same number.

        Args:
          source: [b s] ids.
          tokens: [b t] ids of the target.
          source_context: of the source.
          context: of the target; its `memory` is the source's.
        """
        return _with_logits(self.hidden(source, tokens, source_context, context))

    def hidden(
        self,
        source: Int[Array, "b s"],
        tokens: Int[Array, "b t"],
        source_context: Context | None = None,
        context: Context | None = None,
    ) -> Output:
        """As `pair`, but with x = hidden states [b t d], and `shared["unembed"]`, which makes the logits of them."""
        memory, aux = self._encode(source, self._context(source, source_context))
        out = self._hidden(tokens, dataclasses.replace(self._context(tokens, context), memory=memory))
        return dataclasses.replace(out, aux=aux + out.aux)

    def _context(self, tokens, context: Context | None) -> Context:
        if context is None:
            self.cfg.position.must_know(tokens.shape[1])
            context = Context(positions=positions_of(tokens))
        return dataclasses.replace(context, tokens=tokens)

    def _encode(self, source, context: Context) -> tuple[Memory, Aux]:
        x = self.embedding.encode(source, jnp.dtype(self.cfg.dtype))
        out = self.encoder(x, context.fold(0))
        return Memory(out.x, context.valid, context.segment_ids), out.aux.under("encoder/layers")


def _with_logits(hidden: Output) -> Output:
    return dataclasses.replace(hidden, x=hidden.shared["unembed"](hidden.x), shared={})


class Side(nn.Module):
    """One stack with what stands before and behind it: embedded tokens -> hidden states."""

    cfg: Config
    layers: stack.Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: Any = None) -> Output:
        cfg = self.cfg
        x = embeddings.AddPosition(cfg.position, name="position")(x, context)
        if cfg.dropout and not context.deterministic:
            x = dropout(x, context.fold(len(self.layers.blocks)).key, rate=cfg.dropout)
        out = self.layers.make("layers")(x, context, cache)
        return Output(cfg.norm.make("norm")(out.x) if cfg.final_norm else out.x, out.cache, out.aux)
