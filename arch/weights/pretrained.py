"""Published checkpoints in: what a path holds, checked whole before a value is read, then streamed tensor by tensor.

    model_cfg, params = pretrained.load("path/to/SmolLM2-135M")
    logits = model_cfg.make().apply({"params": params}, tokens).x

Every tensor is used exactly once, equals one that is, or is one that its family ignores; every parameter is filled;
every attribute of the config is expressed. Otherwise a ValueError names what is not.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from arch import tree
from arch.published import Attributes, Rule, differences
from arch.weights import duplicates, limits
from arch.weights import family as families
from arch.weights.gguf import open_gguf
from arch.weights.safetensors import open_safetensors
from arch.weights.source import FLOATS, Source, all_finite
from arch.weights.target import Buffer, canonical, slots

SHOWN = 8
"""Of many differences, how many a message lists."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A published checkpoint that is known to fit one of our models.

    Attributes:
      family: its file of `arch/families`.
      config: the model's config.
      source: its tensors.
      rules: what is what.
      names: the rules' names of tensors -> the source's, which may lack the family's prefix.
      fresh: canonical paths of the model's parameters that it does not hold, under another head (`transfer`).
    """

    family: ModuleType
    config: Any
    source: Source
    rules: tuple[Rule, ...]
    names: dict[str, str]
    fresh: tuple[str, ...] = ()


def open(path) -> Published:
    """What a path holds, everything checked but the values.

    Args:
      path: a folder with config.json and safetensors, one safetensors file beside its config.json, or a GGUF file.

    Raises:
      ValueError: it is damaged, of no known family, or does not fit the model; the file and the reason are named.
    """
    return published((open_gguf if str(path).endswith(".gguf") else open_safetensors)(path))


def published(source: Source) -> Published:
    """The checkpoint that a source holds, with the family that reads it.

    Raises:
      ValueError: no family does, an attribute or tensor is not expressed, or a shape differs.
    """
    try:
        family = families.reading(source.attributes.get("model_type"))
        config = _config(family, source)
        rules = tuple(family.rules(config))
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{source.path} holds no model that is known here: {kind}{error}") from error
    found = Published(family, config, source, rules, names_of(rules, source, family, config))
    if lines := _differences(found):
        raise ValueError(f"{source.path} does not fit its config: {_shown(lines)}")
    return found


def load(
    path,
    abstract: Mapping | None = None,
    *,
    mesh: Mesh | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> tuple[Any, tree.Tree]:
    """The model of a published checkpoint and its parameters.

    Host memory holds one tensor at a time beside the parts of the parameters that this process's devices hold.

    Args:
      path: as in `open`.
      abstract: the parameters as `jax.ShapeDtypeStruct`s with shardings, in canonical or scanned form; None for the
        canonical form with `mesh` and `dtype`.
      mesh: where the sharding rules place the parameters; None for this process's first device.
      dtype: of the parameters.

    Returns:
      The model's config, and its parameters.

    Raises:
      ValueError: as `open`; or `abstract` has other leaves or shapes; or a value is not finite; or two tensors differ
        that the config ties.
    """
    found = open(path)
    return found.config, read(found, canonical(found.config, mesh, dtype) if abstract is None else abstract)


def read(found: Published, abstract: Mapping) -> tree.Tree:
    """The parameters of an opened checkpoint, without the fresh ones, where `abstract` wants them (see `load`)."""
    leaves, places = tree.paths(abstract), slots(abstract)
    _same_parameters(found, places)
    twice = duplicates.pairs(duplicates.named(found.family, found.config), found.names)
    duplicates.hold_equal(found.source, twice, lambda name: _finite(found, name))
    _hold_zero(found)
    left = Counter(slot.path for slot in places.values())
    buffers: dict[str, Buffer] = {}
    arrays: dict[str, Any] = {}
    for rule in sorted(found.rules, key=lambda rule: places[rule.ours[0]].path):
        for number, theirs in enumerate(rule.theirs):
            for ours, index, value in rule.place(number, _finite(found, found.names[theirs])):
                slot = places[ours]
                if slot.path not in buffers:
                    buffers[slot.path] = Buffer(leaves[slot.path])
                buffers[slot.path].fill(slot.index + index, value)
        for path in (places[ours].path for ours in rule.ours):
            left[path] -= 1
            if not left[path]:
                arrays[path] = buffers.pop(path).array()
    return tree.from_paths({path: arrays[path] for path in leaves if path not in found.fresh})


def _config(family: ModuleType, source: Source) -> Any:
    """Our model's config, which can be traced."""
    limits.hold_counts(source)
    attributes = Attributes(source.attributes, "config")
    config = family.read(attributes)
    attributes.finish()
    limits.hold_sizes(config, source)
    canonical(config)
    return config


def names_of(rules: tuple[Rule, ...], source: Source, family: ModuleType, config: Any) -> dict[str, str]:
    """The rules' (or the family's duplicates') name of each of the source's tensors.

    The model may have been saved without its head, so without the prefix, or when a tensor had another name.

    Raises:
      ValueError: two tensors have the same name in the rules.
    """
    known = {name for rule in rules for name in rule.theirs} | duplicates.named(family, config).keys()
    prefix = "" if any(name.startswith(family.PREFIX) for name in source.tensors) else family.PREFIX
    names: dict[str, str] = {}
    for name in source.tensors:
        current = name
        for older, newer in getattr(family, "OLDER", {}).items():
            current = re.sub(older, newer, current)
        current = current if current in known else prefix + current
        if current in names:
            raise ValueError(f"{source.path}: {name} and {names[current]} are both {current}")
        names[current] = name
    return names


def _differences(found: Published) -> list[str]:
    """What rules, model and source do not agree on: names, then shapes and types; a line each."""
    source, names = found.source, found.names
    ours = tree.paths(canonical(found.config))
    twice = duplicates.named(found.family, found.config)
    ignored = (*found.family.ignored(found.config), *map(re.escape, (*twice, *_zeros(found))))
    lines = differences(found.rules, ours, names, ignored)
    if not lines:
        lines += duplicates.differences(source, duplicates.pairs(twice, names))
        for rule in found.rules:
            for theirs, shape in zip(rule.theirs, rule.shapes([ours[path] for path in rule.ours]), strict=True):
                tensor = source.tensors[names[theirs]]
                if tensor.shape != shape:
                    lines.append(f"{names[theirs]} has shape {list(tensor.shape)}, not {list(shape)}")
                if tensor.dtype not in FLOATS:
                    lines.append(f"{names[theirs]} has dtype {tensor.dtype}, not one of {', '.join(FLOATS)}")
    return lines


def _same_parameters(found: Published, places: Mapping[str, Any]) -> None:
    """Holds that the target has this model's parameters."""
    have = {path: tuple(leaf.shape) for path, leaf in tree.paths(canonical(found.config)).items()}
    want = {path: slot.shape for path, slot in places.items()}
    differ = (path for path in have | want if want.get(path) != have.get(path))
    lines = [f"{path} is {want.get(path, 'missing')}, not {have.get(path, 'there')}" for path in differ]
    if lines:
        raise ValueError(f"{found.source.path} does not fit the model: {_shown(lines)}")


def _shown(lines: list[str]) -> str:
    """The first lines in one, and how many there are behind them."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "; ".join(lines[:SHOWN] + more)


def _zeros(found: Published) -> tuple[str, ...]:
    """The tensors that must be 0 where the source has them."""
    return found.family.zeros(found.config) if hasattr(found.family, "zeros") else ()


def _hold_zero(found: Published) -> None:
    """Raises ValueError if one of them is not."""
    for name in (found.names[zero] for zero in _zeros(found) if zero in found.names):
        if _finite(found, name).any():
            raise ValueError(f"{found.source.path}: {name} must be 0: the model has no such weights")


def _finite(found: Published, name: str) -> np.ndarray:
    """The value of a tensor by the source's name. Raises ValueError if an entry is NaN or infinite."""
    tensor = found.source.read(name)
    if not all_finite(tensor):
        raise ValueError(f"{found.source.path}: {name} has entries that are NaN or infinite")
    return tensor
