"""A block: residual sublayers around one stream, with their norms.

    pre            x <- x + f(norm(x))                      GPT-2, LLaMA
    post           x <- norm(x + f(x))                      Vaswani et al., 2017; BERT
    sandwich       x <- x + norm'(f(norm(x)))               CogView; Gemma 2
    parallel       x <- x + sum_i f_i(norm(x))              GPT-J, PaLM, Falcon-7B
    parallel_norms x <- x + sum_i f_i(norm_i(x))            GPT-NeoX
    nested         x <- x + f_2(norm_2(x + f_1(norm_1(x)))) Zamba

A sublayer that normalizes by itself has no norm before it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name

from arch import config
from arch.kernels import implementations
from arch.layers import norm as norms
from arch.layers.contract import Aux, Context, Output, SublayerConfig, check_group
from arch.layers.flops import Flops, Row
from arch.ops.dropout import dropout
from arch.sharding.context import shards
from arch.typing import Array, Float

LAYER_INPUT = "layer_input"
"""The name under which rematerialisation policies know a block's input."""


@config.frozen
class Config(config.Config):
    """One block.

    Attributes:
      sublayers: mixers and ffns in the order in which they act.
      norm: the norm before or after each of them.
      placement: where the norms stand (see the file's head).
      dropout: probability of zeroing an entry of a sublayer's result.
      group: blocks of a stack with the same non-empty group share their parameters.
    """

    sublayers: tuple[config.choice("mixers", "ffns"), ...]
    norm: norms.Config = norms.Config()
    placement: Literal["pre", "post", "sandwich", "parallel", "parallel_norms", "nested"] = "pre"
    dropout: config.Fraction = 0.0
    group: str = ""

    def check(self):
        if not self.sublayers:
            raise ValueError("sublayers=() must hold at least one mixer or ffn")
        check_group(self.group)

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each sublayer's parameters: its file's name, numbered from the second one on."""
        names: list[str] = []
        for sublayer in self.sublayers:
            seen = sum(other.label == sublayer.label for other in self.sublayers[: len(names)])
            names.append(f"{sublayer.label}_{seen}" if seen else sublayer.label)
        return tuple(names)

    def make(self, name: str | None = None) -> "Block":
        """The Linen module."""
        return Block(self, name=name)

    def groups(self) -> dict[str, config.Config]:
        """What shares its parameters with other layers, by group: the block, or parts of its sublayers."""
        found = {self.group: self} if self.group else {}
        return found | {name: part for sublayer in self.sublayers for name, part in sublayer.groups().items()}

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Any]:
        """The sublayers' empty caches by label."""
        sized = {label: s.init_cache(batch, length, embed_dim, dtype) for label, s in zip(self.labels, self.sublayers)}
        return {label: cache for label, cache in sized.items() if cache is not None}

    def flops(self, row: Row) -> Flops:
        """Of all sublayers."""
        return sum((sublayer.flops(row) for sublayer in self.sublayers), Flops())

    def idle_parameters(self, embed_dim: int) -> int:
        """Of all sublayers (see `SublayerConfig.idle_parameters`)."""
        return sum(sublayer.idle_parameters(embed_dim) for sublayer in self.sublayers)

    def update(self, buffers: Mapping, stats: Mapping) -> dict:
        """The next non-trained leaves of the block's sublayers (see `SublayerConfig.update`)."""
        out = dict(buffers)
        for label, sublayer in zip(self.labels, self.sublayers):
            if label in buffers:
                own = {n.removeprefix(f"{label}/"): v for n, v in stats.items() if n.startswith(f"{label}/")}
                out[label] = sublayer.update(buffers[label], own)
        return out


class Block(nn.Module):
    """The contract's function over a tuple of sublayers; its cache is a dict of theirs."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: Mapping | None = None) -> Output:
        cfg = self.cfg
        parallel = cfg.placement.startswith("parallel")
        caches, aux, shared = {}, Aux(), {}
        stream = x = checkpoint_name(x, LAYER_INPUT)
        common = cfg.norm.make("norm")(x) if cfg.placement == "parallel" else None
        for i, (label, sublayer) in enumerate(zip(cfg.labels, cfg.sublayers)):
            if sublayer.normalizes:
                inner = x if parallel else stream
            elif cfg.placement in ("pre", "sandwich", "nested"):
                inner = cfg.norm.make(f"{label}_norm")(stream)
            elif cfg.placement == "parallel_norms":
                inner = cfg.norm.make(f"{label}_norm")(x)
            else:
                inner = common if parallel else stream
            if cache is None:
                must_split(sublayer, shards(x.shape[1]), deterministic=context.deterministic)
            read = dataclasses.replace(context.fold(i), shared=context.shared | shared)
            with implementations.within(label):
                out = sublayer.make(label)(inner, read, None if cache is None else cache.get(label))
            result = out.x
            if cfg.placement == "sandwich":
                result = cfg.norm.make(f"{label}_post_norm")(result)
            if cfg.dropout and not context.deterministic:
                result = dropout(result, context.fold(len(cfg.sublayers) + i).key, rate=cfg.dropout)
            stream = (x if cfg.placement == "nested" else stream) + result
            if cfg.placement == "post":
                stream = cfg.norm.make(f"{label}_norm")(stream)
            shared |= out.shared
            aux += out.aux.under(label)
            if cache is not None and label in cache:
                caches[label] = out.cache
        return Output(stream, None if cache is None else caches, aux, shared)


def must_split(sublayer: SublayerConfig, parts: int, *, deterministic: bool = False) -> None:
    """Raises ValueError where a mesh splits the tokens of rows in parts, and this sublayer needs them whole."""
    lacks = sublayer.lacks() if deterministic else sublayer.lacks_in_training()
    if parts > 1 and "context" in lacks:
        name = f"{sublayer.label!r}, which needs all tokens of a row on one device"
        raise ValueError(f"mesh.context={parts} must be 1 with {name}")
