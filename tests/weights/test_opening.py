"""A checkpoint is opened whole or not at all: what does not fit is named before a value is read."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arch.weights import family, pretrained
from tests.weights import tiny

pytestmark = pytest.mark.usefixtures("tiny_family")


def change(folder, edit):
    """Edits the dict of a checkpoint's tensors."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def configure(folder, **changes):
    """Changes attributes of a checkpoint's config."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_unknown_model_type_raises_naming_the_known_ones(folder):
    configure(folder, model_type="huge")
    with pytest.raises(ValueError, match="model_type='huge' must be one of tiny"):
        pretrained.open(folder)


def test_a_model_type_of_two_families_raises(folder, monkeypatch):
    monkeypatch.setattr(family, "modules", lambda: {"tiny": tiny, "other": tiny})
    with pytest.raises(ValueError, match="model_type='tiny' is of several families: tiny, other"):
        pretrained.open(folder)


def test_the_files_of_arch_families_are_the_registry(monkeypatch):
    monkeypatch.undo()
    assert family.modules()["llama"].__name__ == "arch.families.llama"
    assert all(module.MODEL_TYPES for module in family.modules().values())


def test_an_attribute_that_the_family_does_not_handle_raises(folder):
    configure(folder, new_trick=True)
    with pytest.raises(ValueError, match="tiny holds no model that is known here: config: new_trick=True is not han"):
        pretrained.open(folder)


def test_a_missing_tensor_raises(folder):
    change(folder, lambda tensors: tensors.pop("model.h.1.up.2"))
    with pytest.raises(ValueError, match="model.h.1.up.2 is missing in the file"):
        pretrained.open(folder)


def test_a_tensor_without_a_place_raises(folder):
    change(folder, lambda tensors: tensors.update(extra=np.zeros(3, np.float32)))
    with pytest.raises(ValueError, match="extra of the file is not used"):
        pretrained.open(folder)


def test_a_tensor_that_the_family_ignores_passes_whatever_its_type(folder):
    change(folder, lambda tensors: tensors.update({"model.h.0.mask": np.zeros(3, np.int64)}))
    pretrained.open(folder)


def test_a_tensor_of_another_shape_raises(folder):
    change(folder, lambda tensors: tensors.update({"model.norm": np.zeros(9, np.float32)}))
    with pytest.raises(ValueError, match=r"model.norm has shape \[9\], not \[8\]"):
        pretrained.open(folder)


def test_a_fused_tensor_of_another_shape_raises(folder):
    change(folder, lambda tensors: tensors.update({"model.h.0.qkv": np.zeros((47, 8), np.float32)}))
    with pytest.raises(ValueError, match=r"model.h.0.qkv has shape \[47, 8\], not \[48, 8\]"):
        pretrained.open(folder)


@pytest.mark.parametrize("dtype, name", [("float64", "F64"), ("int8", "I8")])
def test_weights_of_another_type_raise(folder, dtype, name):
    change(folder, lambda tensors: tensors.update({"model.norm": np.zeros(8, dtype)}))
    with pytest.raises(ValueError, match=f"model.norm has dtype {name}, not one of float32, bfloat16, float16"):
        pretrained.open(folder)


def test_many_differences_are_counted_not_listed(folder):
    change(folder, lambda tensors: tensors.update({f"extra{i}": np.zeros(1, np.float32) for i in range(20)}))
    with pytest.raises(ValueError, match="extra15 of the file is not used; and 12 more"):
        pretrained.open(folder)


def test_a_file_without_the_familys_prefix_loads(folder):
    def rename(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change(folder, rename)
    _, params = pretrained.load(folder)
    assert np.array_equal(params["norm"]["scale"], load_file(folder / "model.safetensors")["norm"])


def test_a_prefix_on_some_tensors_only_raises(folder):
    change(folder, lambda tensors: tensors.update({"norm": tensors.pop("model.norm")}))
    with pytest.raises(ValueError, match="model.norm is missing in the file"):
        pretrained.open(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_raises_naming_the_tensor(folder, value):
    def poison(tensors):
        tensors["model.h.1.down.0"][3, 5] = value

    change(folder, poison)
    with pytest.raises(ValueError, match="model.h.1.down.0 has entries that are NaN or infinite"):
        pretrained.load(folder)
