"""Published checkpoints out: config.json and safetensors that other libraries read, written tensor by tensor.

config.json says what the model computes, which is all that our config holds. It names no special tokens but RoBERTa's
and T5's, which are always the same, and no context length but that of learned positions and of rotations scaled from
one: the rest (`eos_token_id`, LLaMA's `max_position_embeddings`) is left to the reader's defaults, or for the ends of a
text to the generation_config.json that a tokenizer is saved with.

Everything is written into a folder beside the target, which gets its name when all of it is there.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from arch import tree
from arch.published import Rule, differences
from arch.weights import family as families
from arch.weights.safetensors import DTYPES, FILE, INDEX
from arch.weights.source import Tensor, all_finite
from arch.weights.target import Slot, canonical, slots


def export(
    model_cfg: Any,
    params: Mapping,
    folder,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    max_shard_bytes: int = 5 * 10**9,
    family: str = "",
) -> None:
    """Writes a model as a published checkpoint: config.json and safetensors.

    Args:
      model_cfg: of the model.
      params: its parameters, in canonical or scanned form.
      folder: to write; it may exist if it is empty.
      dtype: of the tensors.
      max_shard_bytes: a file holds at most so many bytes of tensors, or one larger tensor.
      family: the file of `arch/families` in whose form to write; '' for the only one that can express the model, or
        the plainer of two (`arch.weights.family.writing`).

    Raises:
      ValueError: the folder is not empty, no family or several can express the model, params are not this model's, a
        value is not finite in `dtype`, or several processes run. Nothing is left under `folder` then.
    """
    if jax.process_count() > 1:
        raise ValueError(f"process_count={jax.process_count()} must be 1 to export: load a checkpoint in one process")
    folder = pathlib.Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} must be a new or an empty folder")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes} must be at least 1")
    module, attributes = families.writing(model_cfg, family)
    rules = module.rules(model_cfg)
    tensors = _described(model_cfg, params, rules, dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        _write(partial / "config.json", attributes | {"torch_dtype": dtype})
        _write_tensors(partial, tensors, _values(rules, params, dtype), max_shard_bytes)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _described(model_cfg: Any, params: Mapping, rules: Sequence[Rule], dtype: str) -> dict[str, Tensor]:
    """All tensors in the order of the rules."""
    ours = tree.paths(canonical(model_cfg))
    theirs = {name: None for rule in rules for name in rule.theirs}
    places = slots(params)
    lines = differences(rules, ours, theirs, ())
    lines += [f"{path} has no value" for path in ours.keys() - places.keys()]
    lines += [f"{path} is no parameter of the model" for path in places.keys() - ours.keys()]
    both = ours.keys() & places.keys()
    lines += [f"{p} is {places[p].shape}, not {ours[p].shape}" for p in both if places[p].shape != ours[p].shape]
    if lines:
        raise ValueError(f"params do not fit the model: {'; '.join(sorted(lines))}")
    out = {}
    for rule in rules:
        shapes = rule.shapes([ours[path] for path in rule.ours])
        out |= {name: Tensor(shape, dtype) for name, shape in zip(rule.theirs, shapes, strict=True)}
    return out


def _values(rules: Sequence[Rule], params: Mapping, dtype: str) -> Iterator[np.ndarray]:
    """The tensors' values in the order of the rules."""
    leaves, places = tree.paths(params), slots(params)
    for rule in rules:
        ours = [_on_host(leaves[places[path].path], places[path]) for path in rule.ours]
        for name, value in zip(rule.theirs, rule.save(ours), strict=True):
            with np.errstate(over="ignore"):
                value = np.ascontiguousarray(value, dtype)
            if not all_finite(value):
                raise ValueError(f"{name} has entries that are NaN or infinite in {dtype}")
            yield value


def _on_host(leaf: Any, slot: Slot) -> np.ndarray:
    """The slot's part of a leaf; of a copy, since a leaf keeps a host copy of itself for as long as it lives."""
    if not slot.index:
        return np.asarray(jnp.copy(leaf))
    for number in slot.index:
        leaf = jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False)  # leaf[number] would compile for each number
    return np.asarray(leaf)


def _write_tensors(folder: pathlib.Path, tensors: Mapping[str, Tensor], values: Iterator, max_shard_bytes: int) -> None:
    """One file, or several and the index that says what is where."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        size += _num_bytes(tensor)
        if shards[-1] and size > max_shard_bytes:
            shards.append({})
            size = _num_bytes(tensor)
        shards[-1][name] = tensor
    count = len(shards)
    files = [FILE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    for file, shard in zip(files, shards):
        _write_shard(folder / file, shard, values)
    if count > 1:
        total = sum(map(_num_bytes, tensors.values()))
        where = {name: file for file, shard in zip(files, shards) for name in shard}
        _write(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _write_shard(file: pathlib.Path, shard: Mapping[str, Tensor], values: Iterator[np.ndarray]) -> None:
    """One file: the header's length, the header, and the next values, of which one at a time is held."""
    code = {ours: theirs for theirs, ours in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in shard.items():
        start, end = end, end + _num_bytes(tensor)
        header[name] = {"dtype": code[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _ in shard:
            out.write(next(values).reshape(-1).view(np.uint8))
        out.flush()
        os.fsync(out.fileno())


def _num_bytes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize


def _write(file: pathlib.Path, value: Mapping) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

