"""What all architectures of GGUF share: tensors seen in the published layout, and keys of which none is overlooked."""

import dataclasses
import re
from collections.abc import Mapping

import einops
import numpy as np

from arch.data.gguf_header import Header
from arch.published import Attributes


@dataclasses.dataclass(frozen=True)
class View:
    """How a published tensor is had from the file's.

    Attributes:
      name: in the file.
      expert: entry of its first axis; -1 for all of it.
      heads: in each of so many heads, the rows are turned from [pair, half] to [half, pair]; 0 to leave them.
      pattern: an einops pattern from the stored layout; '' for the same layout.
      fused_heads: rows of query, key and value stand one after the other, each of so many heads, and are published
        head by head; 0 to leave them.
      negated_exp: the file holds -exp(x).
    """

    name: str
    expert: int = -1
    heads: int = 0
    pattern: str = ""
    fused_heads: int = 0
    negated_exp: bool = False

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The published shape, from the stored one."""
        shape = stored if self.expert < 0 else stored[1:]
        return einops.rearrange(np.broadcast_to(np.float32(0), shape), self.pattern).shape if self.pattern else shape

    def arranged(self, x: np.ndarray) -> np.ndarray:
        """The published values, from the stored ones (of the expert)."""
        if self.heads:
            x = einops.rearrange(x, "(n pair half) ... -> (n half pair) ...", n=self.heads, half=2)
        if self.fused_heads:
            x = einops.rearrange(x, "(c n h) ... -> (n c h) ...", c=3, n=self.fused_heads)
        if self.negated_exp:
            with np.errstate(invalid="ignore", divide="ignore"):  # the loader refuses what is not finite
                x = np.log(-x)
        return einops.rearrange(x, self.pattern) if self.pattern else x


class Views(dict[str, View]):
    """The file's tensors by the published names, of which each is had from one tensor alone.

    Args:
      path: of the file, for messages.
    """

    def __init__(self, path: str):
        super().__init__()
        self._path = path

    def add(self, published: str, view: View) -> None:
        """Enters a tensor. Raises ValueError if another one has its published name."""
        if published in self:
            raise ValueError(f"{self._path}: tensors {self[published].name!r} and {view.name!r} are both {published}")
        self[published] = view


class Keys(Attributes):
    """The metadata of a file's architecture (`llama.block_count` is `block_count`)."""

    def __init__(self, header: Header, architecture: str):
        prefix = f"{architecture}."
        own = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
        super().__init__(own, f"{header.path}: {prefix}*")
        self._where = f"{header.path}: {prefix}"
        for name in ("token_embd.weight", "output_norm.weight"):
            if name not in header.tensors:
                raise ValueError(f"{header.path}: {name} is missing")
        self.vocab_size = header.tensors["token_embd.weight"].shape[0]

    def number(self, name: str, *default: int) -> int:
        """One whole number, at least 1. Raises ValueError for anything else, such as one for each layer."""
        value = self.get(name, *default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{self._where}{name}={value!r} must be one number, at least 1")
        return value

    def count(self, name: str, count: int, views: Mapping[str, View], pattern: str) -> None:
        """Holds that a count is that of the tensors that match `pattern`: later work grows with it."""
        found = {match[1] for view in views if (match := re.fullmatch(pattern, view))}
        if len(found) != count:
            raise ValueError(f"{self._where}{name}={count} must be {len(found)}, as many as have tensors")
