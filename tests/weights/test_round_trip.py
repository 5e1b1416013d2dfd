"""What is exported comes back bit for bit, in one file or several, and what other libraries read stands there."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from arch import tree
from arch.weights import pretrained
from arch.weights.export import export
from tests.weights import tiny

pytestmark = pytest.mark.usefixtures("tiny_family")


def same_bits(first, second):
    a, b = tree.paths(first), tree.paths(second)
    assert a.keys() == b.keys()
    return all(a[p].dtype == b[p].dtype and np.array_equal(a[p], b[p]) for p in a)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_exported_comes_back_in_canonical_form(folder, scanned):
    config, params = pretrained.load(folder)
    assert config == tiny.compose() and same_bits(params, tree.unstack(scanned))


def test_a_canonical_tree_is_exported_to_the_same_file_as_a_scanned_one(tmp_path, folder, scanned):
    export(tiny.compose(), tree.unstack(scanned), tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_import_and_export_give_the_file_back(tmp_path, folder):
    export(*pretrained.load(folder), tmp_path / "again")
    for name in files(folder):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_bfloat16_file_kept_in_bfloat16_comes_back_bit_for_bit(tmp_path, scanned):
    export(tiny.compose(), scanned, tmp_path / "one", dtype="bfloat16")
    config, params = pretrained.load(tmp_path / "one", dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    export(config, params, tmp_path / "two", dtype="bfloat16")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_file_of_few_bits_loads_as_float32_of_the_same_values(tmp_path, scanned, dtype):
    export(tiny.compose(), scanned, tmp_path / "out", dtype=dtype)
    _, params = pretrained.load(tmp_path / "out")
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype("float32"), tree.unstack(scanned))
    assert same_bits(params, rounded)


def test_shards_are_no_larger_than_asked_and_hold_the_same(tmp_path, scanned):
    export(tiny.compose(), scanned, tmp_path / "out", max_shard_bytes=2000)
    shards = sorted((tmp_path / "out").glob("model-*-of-00007.safetensors"))
    assert len(shards) == 7 and max(sum(x.nbytes for x in load_file(shard).values()) for shard in shards) <= 2000
    assert same_bits(pretrained.load(tmp_path / "out")[1], tree.unstack(scanned))


def test_the_index_names_the_shard_of_each_tensor_and_their_size(tmp_path, scanned):
    export(tiny.compose(), scanned, tmp_path / "out", max_shard_bytes=2000)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    held = {name: shard.name for shard in (tmp_path / "out").glob("*.safetensors") for name in load_file(shard)}
    assert index == {"metadata": {"total_size": 4 * tree.count(scanned)}, "weight_map": held}


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path, scanned):
    export(tiny.compose(), scanned, tmp_path / "out", max_shard_bytes=1)
    assert all(len(load_file(shard)) == 1 for shard in (tmp_path / "out").glob("*.safetensors"))


def test_other_libraries_learn_the_format_and_the_type(folder):
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "tiny" and config["torch_dtype"] == "float32"


def test_a_file_loads_by_its_own_name(folder, scanned):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert same_bits(pretrained.load(folder / "weights.safetensors")[1], tree.unstack(scanned))
