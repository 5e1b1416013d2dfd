"""Tensors that a file holds twice, as many do a tied table: a second one is left out only if it is the first again.

transformers (from version 5) compares them too, and unties those that differ.
"""

import hashlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from arch.weights.source import Source


def named(family: ModuleType, config: Any) -> dict[str, str]:
    """The family's tensors that may be there twice -> the rules' tensors that they must equal."""
    return family.duplicates(config) if hasattr(family, "duplicates") else {}


def pairs(duplicates: Mapping[str, str], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """The source's names of the duplicates that it has and of what they must equal.

    Args:
      duplicates: as `named` gives them.
      names: the rules' names of tensors -> the source's.
    """
    return [(names[name], names[original]) for name, original in duplicates.items() if name in names]


def differences(source: Source, found: list[tuple[str, str]]) -> list[str]:
    """The pairs that cannot be equal, before a value is read, a line each."""
    lines = []
    for name, original in found:
        have, want = source.tensors[name], source.tensors[original]
        if have != want:
            shown = f"{have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}"
            lines.append(f"{name} is {shown} as is {original}, which it must equal")
    return lines


def hold_equal(source: Source, found: list[tuple[str, str]], read: Callable[[str], np.ndarray]) -> None:
    """Holds that pairs are equal. One tensor is in memory at a time.

    Args:
      source: of the tensors.
      found: pairs of their names.
      read: the value of a tensor by name.

    Raises:
      ValueError: two differ; both are named.
    """
    for name, original in found:
        if _digest(read(name)) != _digest(read(original)):
            rule = "which it must equal in a tied model: set tie_word_embeddings to false if the model is not tied"
            raise ValueError(f"{source.path}: {name} differs from {original}, {rule}")


def _digest(tensor: np.ndarray) -> bytes:
    """The same for equal values, 0 and -0 among them, and for no others; goes through a piece at a time."""
    flat, piece, out = tensor.reshape(-1), 2**20, hashlib.blake2b()
    for start in range(0, flat.size, piece):
        out.update((flat[start : start + piece] + tensor.dtype.type(0)).view(np.uint8))
    return out.digest()
