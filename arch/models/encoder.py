"""Encoder: embedded tokens, a stack whose blocks look both ways, a head on the hidden states.

BERT, RoBERTa and their kin are this shell around post-norm blocks of attention without a causal mask.
"""

import dataclasses
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.heads import hidden_states
from arch.layers import embedding as embeddings
from arch.layers import norm as norms
from arch.layers import stack
from arch.layers.contract import Context, Output, positions_of
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import normal, weight
from arch.ops.dropout import dropout
from arch.positions import none
from arch.typing import Array, Int


@config.frozen
class Config(config.Config):
    """Encoder.

    Attributes:
      vocab_size: ids the model knows; at least the tokenizer's size.
      embed_dim: width of the residual stream.
      layers: the stack.
      embedding: start and scale of the embedding table.
      position: what is added to the embedded tokens, a scheme that acts at the input.
      global_tokens: learned vectors that stand in front of each row in the layers, for what is of the row as a whole
        (the global input of `arch/mixers/etc_attention.py`); the head does not see them. The first one is of the first
        part of `Context.token_types`, and so on.
      token_types: how many parts of the input have a learned vector that is added too (BERT: 2 sentences); 0 for none.
      embedding_norm: a norm right behind these sums.
      norm: which norm that one is, and the one before the head.
      final_norm: whether there is one before the head; post-norm stacks end in a norm of their own.
      dropout: probability of zeroing an entry of the embedded tokens.
      head: what is made of the hidden states.
      dtype: in which the layers compute; parameters stay float32.
    """

    vocab_size: config.PositiveInt
    embed_dim: config.PositiveInt
    layers: stack.Config
    embedding: embeddings.Config = embeddings.Config()
    position: config.choice("positions") = none.Config()
    global_tokens: Annotated[int, config.Range(0, 1 << 16)] = 0
    token_types: config.SizeOrZero = 0
    embedding_norm: bool = False
    norm: norms.Config = norms.Config()
    final_norm: bool = True
    dropout: config.Fraction = 0.0
    head: config.choice("heads") = hidden_states.Config()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def check(self):
        self.position.must_act("input")

    def make(self) -> "Encoder":
        """The Linen module."""
        return Encoder(self)

    def flops(self, length: int, predicted: int = 0) -> Flops:
        """Of a forward pass over one row of so many tokens, the head's among it.

        Args:
          length: tokens.
          predicted: for how many of them a head for text makes logits; 0 for all.
        """
        row = Row(length, self.embed_dim)
        unembed = multiply_adds((predicted or length) * self.embed_dim * self.vocab_size)
        whole = Row(self.global_tokens + length, self.embed_dim)
        return self.layers.flops(whole) + self.head.flops(row, unembed)

    def idle_parameters(self) -> int:
        """Weights of the layers that a token does not meet: those of the experts that it is not sent to."""
        return self.layers.idle_parameters(self.embed_dim)

    def update(self, buffers: dict, stats: dict) -> dict:
        """The next non-trained leaves, in canonical form, from the mean statistics of a training step."""
        own = {name.removeprefix("layers/"): value for name, value in stats.items() if name.startswith("layers/")}
        return {name: self.layers.update(tree, own) if name == "layers" else tree for name, tree in buffers.items()}


class Encoder(nn.Module):
    """tokens -> what the head makes of their hidden states; of a head for text also in two parts, by `hidden`."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        self.embedding = cfg.embedding.make(cfg.vocab_size, cfg.embed_dim, True)
        self.position = embeddings.AddPosition(cfg.position)
        if cfg.token_types:
            init = normal(cfg.embedding.stddev)
            self.token_types = weight(self, "token_types", init, types=cfg.token_types, embed=cfg.embed_dim)
        if cfg.global_tokens:
            init = normal(cfg.embedding.stddev)
            self.global_tokens = weight(self, "global_tokens", init, length=cfg.global_tokens, embed=cfg.embed_dim)
        if cfg.embedding_norm:
            self.embedding_norm = cfg.norm.make()
        self.layers = cfg.layers.make()
        if cfg.final_norm:
            self.norm = cfg.norm.make()
        self.head = cfg.head.make()

    def __call__(self, tokens: Int[Array, "b t"], context: Context | None = None, cache: Any = None) -> Output:
        """The head's output.

        Args:
          tokens: [b t] ids.
          context: what the layers may read, `token_types` among it; None for rows that are neither packed nor padded,
            from position 0, all of type 0.
          cache: None; the argument is there because all models are called alike.

        Returns:
          Output with x as the head says, of a head for text the logits, and in `shared` what it gives beside that.

        Raises:
          ValueError: a cache, token types in a model that has none, or packed rows in one with global tokens.
        """
        out = self.hidden(tokens, context, cache)
        beside = dict(out.shared)
        unembed = beside.pop("unembed", None)
        return out if unembed is None else dataclasses.replace(out, x=unembed(out.x), shared=beside)

    def hidden(self, tokens: Int[Array, "b t"], context: Context | None = None, cache: Any = None) -> Output:
        """As the call, but of a head for text x = hidden states [b t d], and `shared["unembed"]` makes its logits."""
        cfg = self.cfg
        if cache is not None:
            raise ValueError("cache must be None: an encoder sees the whole row at once")
        if context is None:
            cfg.position.must_know(tokens.shape[1])
            context = Context(positions=positions_of(tokens))
        context = dataclasses.replace(context, tokens=tokens)
        out = self.encoded(context)
        unembed = self.embedding.unembedding(out.x.dtype)
        result = self.head(out.x, context.fold(len(cfg.layers.blocks) + 1), unembed)
        return Output(result.x, None, out.aux.under("layers") + result.aux, result.shared)

    def encoded(self, context: Context) -> Output:
        """x = the hidden states [b t d] of `context.tokens`, which the head reads, and what the layers say beside."""
        cfg = self.cfg
        x = self.embedding.encode(context.tokens, jnp.dtype(cfg.dtype))
        x = self._add_types(self.position(x, context), context)
        if cfg.embedding_norm:
            x = self.embedding_norm(x)
        if cfg.dropout and not context.deterministic:
            x = dropout(x, context.fold(len(cfg.layers.blocks)).key, rate=cfg.dropout)
        out = self.layers(*self._behind_globals(x, context))
        x = out.x[:, cfg.global_tokens :]
        return dataclasses.replace(out, x=self.norm(x) if cfg.final_norm else x)

    def _add_types(self, x, context: Context):
        """x with the vector of each token's type; a type that there is not makes the token NaN."""
        if not self.cfg.token_types:
            if context.token_types is not None and not self.cfg.global_tokens:
                raise ValueError("token_types must be None: the model has no vectors for them (token_types=0)")
            return x
        table = self.token_types.astype(x.dtype)
        if context.token_types is None:
            return x + table[0]
        return x + table.at[context.token_types].get(mode="fill", fill_value=jnp.nan)

    def _behind_globals(self, x, context: Context):
        """(x behind the global tokens, what layers read of both)."""
        g, b = self.cfg.global_tokens, len(x)
        if not g:
            return x, context
        if context.segment_ids is not None:
            raise ValueError(f"segment_ids must be None with global_tokens={g}: they are of a whole row")

        def behind(array, first):
            return None if array is None else jnp.concatenate([jnp.broadcast_to(first, (b, g)), array], axis=1)

        numbers, ones = jnp.arange(g, dtype=jnp.int32), jnp.ones(g, bool)
        read = dict(positions=behind(context.positions + g, numbers), valid=behind(context.valid, ones))
        read |= dict(globals=behind(context.globals, ones), token_types=behind(context.token_types, numbers))
        read |= dict(tokens=behind(context.tokens, jnp.zeros(g, jnp.int32)))
        vectors = jnp.broadcast_to(self.global_tokens.astype(x.dtype), (b, g, x.shape[2]))
        return jnp.concatenate([vectors, x], axis=1), dataclasses.replace(context, **read)
