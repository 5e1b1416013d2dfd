"""The contract: a block is a tuple of residual sublayers, and each sublayer is one function.

    sublayer(x, context, cache) -> Output(x, cache, aux, shared)

`x` is the residual stream's value, already normalised; the result is what the block adds to the stream. Everything else
a sublayer may read stands in the `Context`; what it remembers between calls is its `cache`; what the trainer should
know is its `aux`; what later layers may read is `shared`. All are values: parameters are the only Flax collection.

Within one call the valid tokens of a row come first (ragged prompts are padded on the right).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from arch import config
from arch.layers.flops import Flops, Row, unknown
from arch.typing import Array, Bool, Float, Int, Key


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What cross-attention reads: an encoder's output, an image's patches, retrieved neighbours.

    Attributes:
      values: [b s d].
      valid: [b s], False where padded; None when all are valid.
      segment_ids: [b s] which packed document may read it, as in `Context`; None when all of the row may.
    """

    values: Float[Array, "b s e"]
    valid: Bool[Array, "b s"] | None = None
    segment_ids: Int[Array, "b s"] | None = None


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Routes:
    """Experts and weights that routers had in an earlier pass, of a model's n layers, or of one without the axis n.

    Attributes:
      experts: [b t n c] -1 for none: in layers without a mixture, and where a token has fewer than c.
      weights: [b t n c] 0 where there is no expert.
    """

    experts: Int[Array, "b t *n c"]
    weights: Float[Array, "b t *n c"]

    def of(self, layer: int | Array) -> "Routes":
        """A layer's."""
        return jax.tree.map(lambda leaf: jnp.take(leaf, layer, axis=2), self)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Common:
    """A value in `Context.shared` that is the same for all rows. All others there have rows as their first axis.

    Attributes:
      value: an array, or its shape, as of any leaf of `shared`.
    """

    value: Any


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What sublayers may read beside the residual stream.

    Attributes:
      positions: [b t] position of each token in its own document, from 0.
      segment_ids: [b t] from 1, one number a packed document, 0 for padding; None when rows are not packed.
      valid: [b t] False for padding behind a ragged prompt; None when all tokens are valid.
      memory: what cross-attention reads; None when there is none.
      globals: [b t] True for tokens chosen at run time to see and be seen by all; None when there are none.
      token_types: [b t] which part of the input each token belongs to (BERT's sentence A 0, B 1); None when all are 0.
      tokens: [b t] the ids of which the residual stream was made, for hash routing; None where a model does not tell.
      watched: [n] ascending ids of which routers tell where they go, and which experts go together; None not to tell.
      routes: what routers that replay read, a stack those of all its layers, a layer its own; None to route anew.
      embedding: [b t d] what the stack's first layer read; None where no sublayer of it asks for that.
      parameters: what layers or sublayers of a stack share, by group.
      key: for dropout and noise; None only when `deterministic`.
      shared: what earlier layers computed for later ones, by name: arrays with rows first, or `Common` ones. The
        repeated part of a stack may change its values, not its names.
      deterministic: no dropout, no noise.
      recording: routers tell where they send each token (`arch.train.routes`).
      passing: what passes the repeated part of a stack in its place (`arch.train.pipelined`); None for the stack.
    """

    positions: Int[Array, "b t"]
    segment_ids: Int[Array, "b t"] | None = None
    valid: Bool[Array, "b t"] | None = None
    memory: Memory | None = None
    globals: Bool[Array, "b t"] | None = None
    token_types: Int[Array, "b t"] | None = None
    tokens: Int[Array, "b t"] | None = None
    watched: Int[Array, "n"] | None = None
    routes: Routes | None = None
    embedding: Float[Array, "b t d"] | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    key: Key[Array, ""] | None = None
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    deterministic: bool = dataclasses.field(default=True, metadata={"static": True})
    recording: bool = dataclasses.field(default=False, metadata={"static": True})
    passing: Callable | None = dataclasses.field(default=None, metadata={"static": True})

    def fold(self, number: int | Array) -> "Context":
        """The same context with `number` folded into the key."""
        return self if self.key is None else dataclasses.replace(self, key=jax.random.fold_in(self.key, number))

    def real(self) -> Bool[Array, "b t"]:
        """[b t] True for tokens that are neither padding of a pack nor behind a ragged prompt."""
        mask = jnp.ones(self.positions.shape, bool) if self.valid is None else self.valid
        return mask if self.segment_ids is None else mask & (self.segment_ids > 0)

    def starts(self) -> Bool[Array, "b t"] | None:
        """[b t] True for the first token of each packed segment; None when rows are not packed."""
        if self.segment_ids is None:
            return None
        before = jnp.pad(self.segment_ids, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        return self.segment_ids != before


def positions_of(tokens: Int[Array, "b t"], start: Int[Array, "b"] | int = 0) -> Int[Array, "b t"]:
    """[b t] positions counted from `start` in each row."""
    start = jnp.broadcast_to(jnp.asarray(start, jnp.int32), tokens.shape[:1])
    return start[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Aux:
    """What a sublayer tells the trainer.

    Attributes:
      losses: scalars, already weighted, added to the objective. Each is a mean over the rows of the batch of a value
        that depends on that row alone, so that sharding and gradient accumulation leave it exact.
      stats: arrays for the log, by name; expert loads and the like. They are means over rows, too, but for what a
        `recording` tells of each token.
    """

    losses: dict[str, Array] = dataclasses.field(default_factory=dict)
    stats: dict[str, Array] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Aux") -> "Aux":
        names = dict.fromkeys([*self.losses, *other.losses])
        losses = {name: self.losses.get(name, 0.0) + other.losses.get(name, 0.0) for name in names}
        return Aux(losses, {**self.stats, **other.stats})

    def under(self, prefix: str) -> "Aux":
        """The same, the stats' names prefixed: `expert_load` becomes `prefix/expert_load`."""
        return Aux(self.losses, {f"{prefix}/{name}": value for name, value in self.stats.items()})


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What a call returns.

    Attributes:
      x: the result: [b t d] of a sublayer or stack, logits [b t v] of a model.
      cache: with the structure of the cache that came in.
      aux: losses and statistics.
      shared: names that this sublayer adds to (or replaces in) `Context.shared` for the layers after it; of a
        model, what its head gives beside x.
    """

    x: Array
    cache: Any = None
    aux: Aux = dataclasses.field(default_factory=Aux)
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)


class SublayerConfig(config.Config):
    """Base of the configs of mixers and ffns.

    Attributes:
      normalizes: it reads the stream as it is, and has norms of its own: a block puts none before it.
      reads_embedding: it reads `Context.embedding`.
      transforms: it has Fourier transforms.
    """

    normalizes: ClassVar[bool] = False
    reads_embedding: ClassVar[bool] = False
    transforms: ClassVar[bool] = False

    def make(self, name: str | None = None):
        """The Linen module with this config, whose call is the contract's function."""
        raise NotImplementedError

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> Any:
        """The empty cache for so many rows and tokens, or None for a sublayer that remembers nothing."""
        return None

    def lacks(self) -> tuple[str, ...]:
        """The traits of the contract that this sublayer honestly lacks.

        They are 'causal', 'segments', 'padding', 'cache', and 'context': on a mesh that splits the tokens of rows it
        would need them whole.
        """
        return ()

    def lacks_in_training(self) -> tuple[str, ...]:
        """The same where `deterministic` is False."""
        return self.lacks()

    def groups(self) -> dict[str, config.Config]:
        """Parts whose parameters it shares with other sublayers of the stack, by the name that the stack has for them.

        A part's module is called as a sublayer is, and all its leaves are trained. The sublayer finds them in
        `Context.parameters`, and has others of its own.
        """
        return {}

    def flops(self, row: Row) -> Flops:
        """Of a forward pass over one row (see `arch.layers.flops`). Raises UnknownFlops unless it is overridden."""
        raise unknown(self)

    def idle_parameters(self, embed_dim: int) -> int:
        """How many weights a token does not meet: those of the experts that it is not sent to."""
        return 0

    def update(self, buffers: Mapping[str, Array], stats: Mapping[str, Array]) -> Mapping[str, Array]:
        """The next values of the non-trained leaves, from the mean statistics of a training step."""
        return buffers

    @property
    def label(self) -> str:
        """The name of this sublayer's parameters within a block: the file's name."""
        return type(self).__module__.rsplit(".", 1)[-1]


def check_group(name: str) -> None:
    """Raises ValueError unless this may name what layers share: '' for nothing, or a name among those of layers."""
    if name and (name.startswith("scan_") or not name.isidentifier()):
        raise ValueError(f"group={name!r} must be an identifier that does not start with 'scan_'")


class HeadConfig(config.Config):
    """Base of the configs of heads."""

    def make(self, name: str | None = None):
        """The Linen module with this config, a function (x, context, unembed) -> Output."""
        raise NotImplementedError

    @property
    def looks(self) -> bool:
        """Whether the tokens that it reads must have seen the whole row."""
        return True

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """Of a forward pass over one row, of which `unembed` takes so many. Raises UnknownFlops unless overridden."""
        raise unknown(self)


@dataclasses.dataclass(frozen=True)
class LogitBias:
    """What a position scheme adds to the logits, as a function of places, so that nobody need hold it whole.

    Attributes:
      function: function(operands, query_place [b t], key_place [b s]) -> [b n t s]; it closes over no array. Places are
        those in the row, or in the cache: only differences count.
      operands: an array that has a gradient.
      linear: the operands are [n] slopes that need no gradient, and the bias -slope |i - j|: some kernels know that.
    """

    function: Callable
    operands: Array
    linear: bool = False

    def __call__(self, query_place: Int[Array, "#b t"], key_place: Int[Array, "#b s"]) -> Float[Array, "#b n t s"]:
        return self.function(self.operands, query_place, key_place)


class Position(config.Config):
    """Base of the configs of position schemes. A scheme acts at one place and overrides the hook of that place.

    Attributes:
      acts: 'input' (`embed`), 'heads' (`rotate`), 'logits' (`bias`), or 'nowhere'.
    """

    acts: ClassVar[Literal["nowhere", "input", "heads", "logits"]] = "nowhere"

    def embed(self, own: Callable, positions: Int[Array, "b t"], embed_dim: int) -> Float[Array, "b t d"]:
        """What is added to the embedded tokens, in float32; `own` declares weights. Zeros by default."""
        return jnp.zeros((*positions.shape, embed_dim), jnp.float32)

    def rotate(self, x: Float[Array, "b t n h"], positions: Int[Array, "b t"]) -> Float[Array, "b t n h"]:
        """Queries or keys with their positions worked in; unchanged by default."""
        return x

    def bias(
        self, own: Callable, num_heads: int, shared: Mapping[str, Any]
    ) -> tuple[LogitBias | None, dict[str, Any]]:
        """What is added to the logits (None for nothing), and what the layer adds to `Context.shared`.

        Args:
          own: declares weights among the attention's.
          num_heads: n.
          shared: `Context.shared`.
        """
        return None, {}

    @property
    def max_length(self) -> int:
        """How many positions it knows; 0 for any number."""
        return 0

    def must_act(self, *places: str) -> None:
        """Raises ValueError unless the scheme acts at one of these places, or nowhere."""
        if self.acts not in ("nowhere", *places):
            name = type(self).__module__.rsplit(".", 1)[-1]
            raise ValueError(f"position={name!r} must act at {' or '.join(places)} here; it acts at {self.acts}")

    def must_know(self, length: int) -> None:
        """Raises ValueError when rows of `length` tokens have positions that the scheme does not know."""
        if 0 < self.max_length < length:
            raise ValueError(f"length={length} must be at most {self.max_length}, the positions that are learned")
