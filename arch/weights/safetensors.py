"""Safetensors checkpoints: config.json beside one file, or beside an index of several shards.

A file is the header's length (8 bytes, little-endian), the header (JSON: name -> dtype, shape, data_offsets), and the
tensors end to end. The `safetensors` library (Hugging Face, 2022) holds that the offsets cover the data exactly,
without overlap, and agree with shapes and types; here a name may not stand twice, and a shard lies beside its index.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy  # noqa: F401  (teaches numpy the name bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from arch.weights.source import Tensor, parse_json, read_json

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"

HEADER_LIMIT = 16 * 2**20
"""Largest header in bytes; a shard of 10 000 tensors has a tenth of it."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of the format that are read as weights; a tensor of another keeps its name from the format."""


class Safetensors:
    """A `Source` (see there) of one or several safetensors files."""

    def __init__(self, path: pathlib.Path, attributes: Mapping[str, Any], places: Mapping[str, Mapping[str, Tensor]]):
        """Args: path: as given. attributes: of config.json. places: file -> its tensors."""
        self.path, self.attributes = path, attributes
        self.tensors = {name: tensor for tensors in places.values() for name, tensor in tensors.items()}
        self._files = {name: file for file, tensors in places.items() for name in tensors}

    def read(self, name: str) -> np.ndarray:
        """The value of one tensor."""
        file = self._files[name]
        try:
            with safe_open(file, framework="np", backend="pread") as shard:
                return shard.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} changed while it was read: {error}") from None


def open_safetensors(path) -> Safetensors:
    """Checks everything but the values.

    Args:
      path: a folder with model.safetensors or model.safetensors.index.json, or one file. config.json lies beside it.

    Raises:
      ValueError: something is missing, damaged or contradicts itself; the file and the reason are named.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.suffix in PICKLES:
        raise ValueError(_pickle(path))
    folder = path if path.is_dir() else path.parent
    attributes = read_json(folder / "config.json")
    files = [path] if path != folder else _files_of(folder)
    places = {str(file): _header(file) for file in files}
    seen: dict[str, str] = {}
    for file, tensors in places.items():
        for name in tensors:
            if name in seen:
                raise ValueError(f"{name} is in both {seen[name]} and {file}")
            seen[name] = file
    if folder == path and not (folder / FILE).exists():
        _agrees(folder / INDEX, seen)
    return Safetensors(path, attributes, places)


def _files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that together hold a folder's tensors."""
    single, index = folder / FILE, folder / INDEX
    if single.exists() and index.exists():
        raise ValueError(f"{folder} holds both {FILE} and {INDEX}: name the file that is meant")
    if single.exists():
        return [single]
    if not index.exists():
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        if pickles:
            raise ValueError(_pickle(folder / pickles[0]))
        raise ValueError(f"{folder} holds neither {FILE} nor {INDEX}")
    names = _weight_map(index).values()
    for name in names:
        if not isinstance(name, str) or name != pathlib.PurePath(name).name or "\\" in name or "\0" in name:
            raise ValueError(f"{index}: shard {name!r} must be the name of a file in the same folder")
        if not name.endswith(".safetensors"):
            raise ValueError(f"{index}: shard {name!r} must be a .safetensors file")
    return [folder / name for name in sorted(set(names))]


def _pickle(file: pathlib.Path) -> str:
    return f"{file} is a pickle, which runs code when it is read: save it as {FILE}"


def _weight_map(index: pathlib.Path) -> dict[str, Any]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{index}: weight_map must be an object that names each tensor's shard")
    return shards


def _agrees(index: pathlib.Path, seen: Mapping[str, str]) -> None:
    """Holds that the index names exactly the tensors that its shards hold."""
    named = {name: str(index.parent / shard) for name, shard in _weight_map(index).items()}
    for name, file in named.items():
        if seen.get(name) != file:
            raise ValueError(f"{index}: {name} is not in {file}")
    for name, file in seen.items():
        if name not in named:
            raise ValueError(f"{index} does not name {name} of {file}")


def _header(file: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of one file, its header checked."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            if length > HEADER_LIMIT:
                raise ValueError(f"the header has {length} bytes, more than {HEADER_LIMIT}: no safetensors file")
            header = raw.read(length)
        with safe_open(file, framework="np", backend="pread") as shard:
            parse_json(header)
            return {name: _tensor(shard.get_slice(name)) for name in shard.keys()}
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file}: {error}") from None


def _tensor(part: Any) -> Tensor:
    kind = part.get_dtype()
    return Tensor(tuple(part.get_shape()), DTYPES.get(kind, kind))
