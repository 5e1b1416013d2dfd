"""A tensor that a file holds twice is left out if it is the same again; a second one that differs raises."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arch.weights import family, pretrained
from arch.weights.export import export
from tests.weights import tiny


@pytest.fixture
def tied(tmp_path, scanned, tiny_family):
    """The tiny model with a tied table."""
    embedding = {"table": scanned["embedding"]["table"]}
    export(tiny.compose(tie_embeddings=True), scanned | {"embedding": embedding}, tmp_path / "tied")
    return tmp_path / "tied"


def again(folder, edit=lambda table: table, rename=lambda name: name):
    """Saves the table a second time, edited. Returns the table."""
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed"]
    tensors = {rename(name): tensor for name, tensor in tensors.items()} | {"head": edit(table.copy())}
    save_file(tensors, folder / "model.safetensors")
    return table


def changed(table, value):
    table[-1, -1] = value
    return table


def test_one_that_is_equal_is_left_out(tied):
    table = again(tied)
    _, params = pretrained.load(tied)
    assert params["embedding"].keys() == {"table"} and np.array_equal(params["embedding"]["table"], table)


def test_zeros_of_either_sign_are_equal(tied):
    tensors = load_file(tied / "model.safetensors")
    tensors["model.embed"][3, 5], tensors["head"] = 0.0, tensors["model.embed"].copy()
    tensors["head"][3, 5] = -0.0
    save_file(tensors, tied / "model.safetensors")
    pretrained.load(tied)


def test_one_that_is_equal_is_left_out_of_a_file_without_the_familys_prefix(tied):
    again(tied, rename=lambda name: name.removeprefix("model."))
    pretrained.load(tied)


def test_one_in_bfloat16_is_compared(tied):
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in load_file(tied / "model.safetensors").items()}
    save_file(tensors | {"head": tensors["model.embed"].copy()}, tied / "model.safetensors")
    pretrained.load(tied)
    save_file(tensors | {"head": changed(tensors["model.embed"].copy(), 2.0)}, tied / "model.safetensors")
    with pytest.raises(ValueError, match="head differs from model.embed"):
        pretrained.load(tied)


def test_one_that_differs_in_its_last_value_raises_naming_both_and_what_to_do(tied):
    again(tied, lambda table: changed(table, 2.0))
    with pytest.raises(ValueError, match="head differs from model.embed, which .* set tie_word_embeddings to false"):
        pretrained.load(tied)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_that_is_not_finite_raises(tied, value):
    again(tied, lambda table: changed(table, value))
    with pytest.raises(ValueError, match="head has entries that are NaN or infinite"):
        pretrained.load(tied)


@pytest.mark.parametrize("edit, have", [
    (lambda table: table[:-1], r"float32 \[13, 8\]"),
    (lambda table: table.T.copy(), r"float32 \[8, 14\]"),
    (lambda table: table.astype(np.float16), r"float16 \[14, 8\]"),
    (lambda table: table.astype(np.int8), r"I8 \[14, 8\]"),
])  # fmt: skip
def test_one_of_another_shape_or_type_raises_before_it_is_read(tied, edit, have):
    again(tied, edit)
    with pytest.raises(ValueError, match=rf"head is {have}, not float32 \[14, 8\] as is model.embed"):
        pretrained.open(tied)


FAMILIES = {name: module for name, module in family.modules().items() if hasattr(module, "duplicates")}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_names_twice_is_beside_the_tensors_of_its_rules(name):
    module = FAMILIES[name]
    for config in module.PRESETS.values():
        theirs = {theirs for rule in module.rules(config) for theirs in rule.theirs}
        duplicates = module.duplicates(config)
        assert not duplicates.keys() & theirs and set(duplicates.values()) <= theirs


def test_only_what_is_tied_is_twice():
    gpt = FAMILIES["gpt"]
    assert gpt.duplicates(gpt.PRESETS["gpt2_small"]) == {"lm_head.weight": "transformer.wte.weight"}
    assert gpt.duplicates(gpt.PRESETS["gpt2_small"].replace(tie_embeddings=False)) == {}
