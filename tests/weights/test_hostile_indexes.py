"""Hostile shard indexes raise a ValueError that names file and reason; no file outside the folder is touched."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from arch.weights import pretrained

pytestmark = pytest.mark.usefixtures("tiny_family")

INDEX = "model.safetensors.index.json"
SHARDS = ("model-1.safetensors", "model-2.safetensors")


@pytest.fixture
def shards(tmp_path):
    """A folder with two shards of one tensor each, and what its index says."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    for name, file in zip("ab", SHARDS):
        save_file({name: np.ones(3, np.float32)}, tmp_path / file)
    return tmp_path, dict(zip("ab", SHARDS))


def write_index(folder, where):
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))


def refused(folder, reason, file=INDEX):
    with pytest.raises(ValueError) as error:
        pretrained.open(folder)
    assert str(folder / file) in str(error.value) and reason in str(error.value)


SHARD_NAMES = {
    "../x.safetensors": "must be the name of a file in the same folder",
    "/etc/x.safetensors": "must be the name of a file in the same folder",
    "sub/x.safetensors": "must be the name of a file in the same folder",
    "..\\x.safetensors": "must be the name of a file in the same folder",
    "x\0.safetensors": "must be the name of a file in the same folder",
    "": "must be a .safetensors file",
    "..": "must be a .safetensors file",
    "config.json": "must be a .safetensors file",
}


@pytest.mark.parametrize("name", SHARD_NAMES)
def test_an_index_names_files_of_its_own_folder_only(shards, name):
    folder, where = shards
    shutil.copy(folder / SHARDS[0], folder.parent / "x.safetensors")
    write_index(folder, where | {"a": name})
    refused(folder, SHARD_NAMES[name])


INDEXES = {
    "a tensor that its shard lacks": ({"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}, "c is not in"),
    "a tensor in another shard": ({"a": SHARDS[1], "b": SHARDS[0]}, "a is not in"),
    "a shard by a number": ({"a": 1}, "shard 1 must be"),
    "no tensors": ({}, "weight_map must be an object"),
    "a list": (["a"], "weight_map must be an object"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_is_refused_that_names(shards, kind):
    folder, _ = shards
    where, reason = INDEXES[kind]
    write_index(folder, where)
    refused(folder, reason)


def test_an_index_that_lacks_a_tensor_of_its_shards_is_refused(shards):
    folder, where = shards
    save_file({"b": np.ones(3, np.float32), "c": np.ones(3, np.float32)}, folder / SHARDS[1])
    write_index(folder, where)
    refused(folder, "does not name c")


def test_an_index_that_names_a_tensor_twice_is_refused(shards):
    folder, _ = shards
    text = f'{{"weight_map": {{"a": "{SHARDS[0]}", "b": "{SHARDS[1]}", "a": "{SHARDS[1]}"}}}}'
    (folder / INDEX).write_text(text)
    refused(folder, "'a' is there twice")


def test_a_tensor_in_two_shards_is_refused(shards):
    folder, where = shards
    save_file({"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}, folder / SHARDS[1])
    write_index(folder, where)
    refused(folder, "a is in both", SHARDS[1])


def test_a_missing_shard_is_named(shards):
    folder, where = shards
    (folder / SHARDS[1]).unlink()
    write_index(folder, where)
    refused(folder, "is missing", SHARDS[1])


def test_a_file_and_an_index_are_ambiguous(shards):
    folder, where = shards
    write_index(folder, where)
    save_file({"a": np.ones(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="holds both model.safetensors and model.safetensors.index.json"):
        pretrained.open(folder)
