"""A source of published tensors: what there is is known at once, values are read one tensor at a time."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

FLOATS = ("float32", "bfloat16", "float16")
"""The types of weights that are read and written."""

JSON_LIMIT = 64 * 2**20
"""Largest JSON file in bytes; the index of a model of 100 000 tensors has a tenth of it."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What is known of a tensor before it is read: its shape, and the type in which `read` gives it."""

    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class Source(Protocol):
    """Published tensors and the config that goes with them.

    Attributes:
      path: the file or folder, for messages.
      attributes: the config, in the words of config.json.
      tensors: all of them by name.
    """

    path: pathlib.Path
    attributes: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def read(self, name: str) -> np.ndarray:
        """The value of one tensor, with the shape and dtype that `tensors` says."""
        ...


def all_finite(tensor: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite; looks at a piece at a time, since the answer needs memory of its own."""
    flat, piece = tensor.reshape(-1), 2**20
    return all(np.isfinite(flat[start : start + piece]).all() for start in range(0, flat.size, piece))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
      ValueError: the file is absent or large, holds something else, or names a key twice; it is named.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    if (size := path.stat().st_size) > JSON_LIMIT:
        raise ValueError(f"{path} has {size} bytes: at most {JSON_LIMIT} are read")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_json(text: bytes) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError if it is something else, or names a key twice."""

    def once(pairs):
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{name!r} is there twice")
            found[name] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"JSON must be an object, not {type(value).__name__}")
    return value
