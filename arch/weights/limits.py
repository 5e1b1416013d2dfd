"""What a published config may ask of the host before its model's shapes are known: no more than its tensors can make.

A model is traced to compare its shapes with the file's. Tracing makes no weights, but a layer at a time, and on the
host the tables that depend on sizes alone: frequencies of a head's channels, slopes of the heads.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from arch import config as configs
from arch.weights.source import Source

COUNTS = re.compile(r".*(layers?|experts)")
"""Attributes of config.json whose number of parts is made before it can be compared with the tensors."""

SIZES = ("num_heads", "num_kv_heads", "head_dim", "buckets", "conv_width")
"""Fields of our configs with which a trace's host arrays and steps grow. Each is at most an axis of a weight."""


def hold_counts(source: Source) -> None:
    """Holds that no attribute asks for more parts than the source has tensors.

    Raises:
      ValueError: one does.
    """
    most = max(len(source.tensors), 1024)
    for name, value in source.attributes.items():
        if COUNTS.fullmatch(name) and isinstance(value, int) and value > most:
            raise ValueError(f"{name}={value} is more than {len(source.tensors)} tensors can make")


def hold_sizes(config: Any, source: Source) -> None:
    """Holds that no size is more than the longest axis of the source's tensors, of those that have entries.

    Raises:
      ValueError: one is.
    """
    shapes = [tensor.shape for tensor in source.tensors.values() if 0 not in tensor.shape]
    axis = max((size for shape in shapes for size in shape), default=0)
    for name, value in _fields(config):
        if name in SIZES and value > axis:
            raise ValueError(f"{name}={value} is more than {axis}, the longest axis of the tensors")


def _fields(config: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of each field of a config, and of the configs in it."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield field.name, value
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, configs.Config):
                yield from _fields(part)
