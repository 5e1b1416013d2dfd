"""An export is there whole or not at all, and says what it cannot express."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.sharding import mesh as meshes
from arch.weights import export as exports
from arch.weights import family, pretrained
from arch.weights.export import export
from tests.weights import tiny

pytestmark = pytest.mark.usefixtures("tiny_family")


@pytest.fixture
def register(monkeypatch):
    """Makes these the only families."""
    return lambda **modules: monkeypatch.setattr(family, "modules", lambda: modules)


def other(write):
    return types.SimpleNamespace(MODEL_TYPES=("other",), write=write, rules=tiny.rules)


def reject(config):
    raise ValueError("heads=4 must be 5")


def test_a_sharded_model_is_exported_as_a_whole_one_is(folder, tmp_path):
    mesh = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
    export(*pretrained.load(folder, mesh=mesh), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_new_folder_and_its_parents_are_made(tmp_path, scanned):
    export(tiny.compose(), scanned, tmp_path / "a/b/c")
    assert sorted(p.name for p in (tmp_path / "a/b/c").iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["c"]


def test_an_empty_folder_is_filled(tmp_path, scanned):
    (tmp_path / "out").mkdir()
    export(tiny.compose(), scanned, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").exists()


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path, scanned):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        export(tiny.compose(), scanned, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value, dtype", [(np.nan, "float32"), (np.inf, "bfloat16"), (70000.0, "float16")])
def test_a_value_that_the_file_cannot_hold_raises_and_leaves_nothing(tmp_path, scanned, value, dtype):
    params = tree.map_with_path(lambda path, leaf: leaf.at[3].set(value) if path == "norm/scale" else leaf, scanned)
    with pytest.raises(ValueError, match=f"model.norm has entries that are NaN or infinite in {dtype}"):
        export(tiny.compose(), params, tmp_path / "out", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(tmp_path, scanned, monkeypatch):
    monkeypatch.setattr(exports.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        export(tiny.compose(), scanned, tmp_path / "out", max_shard_bytes=2000)
    assert list(tmp_path.iterdir()) == []


def test_while_it_is_written_nothing_stands_under_the_final_name(tmp_path, scanned, monkeypatch):
    seen = []
    monkeypatch.setattr(exports.os, "fsync", lambda _: seen.append((tmp_path / "out").exists()))
    export(tiny.compose(), scanned, tmp_path / "out", max_shard_bytes=2000)
    assert seen == [False] * 7


def test_a_model_that_no_family_expresses_raises_with_each_reason(tmp_path, scanned, register):
    register(one=other(reject), two=other(reject))
    with pytest.raises(ValueError, match="no family can express this model: one: heads=4 must be 5; two: heads=4 must"):
        export(tiny.compose(), scanned, tmp_path / "out")


def test_a_model_that_two_families_express_needs_a_name(tmp_path, scanned, register):
    register(one=other(reject), tiny=tiny, twin=tiny)
    with pytest.raises(ValueError, match="family must be named: tiny, twin can all express this model"):
        export(tiny.compose(), scanned, tmp_path / "out")
    export(tiny.compose(), scanned, tmp_path / "out", family="twin")
    with pytest.raises(ValueError, match="one: heads=4 must be 5"):
        export(tiny.compose(), scanned, tmp_path / "one", family="one")


def specialised(plainer):
    """The tiny family, as one that specialises another."""
    module = types.ModuleType("special")
    module.SPECIALISES, module.write = plainer, tiny.write
    return module


def test_a_family_yields_to_the_one_it_specialises(register):
    special = specialised("tiny")
    register(special=special, tiny=tiny)
    assert family.writing(tiny.compose())[0] is tiny
    assert family.writing(tiny.compose(), "special")[0] is special


def test_a_family_does_not_yield_where_the_one_it_specialises_cannot_express_the_model(register):
    special = specialised("other")
    register(special=special, other=other(reject))
    assert family.writing(tiny.compose())[0] is special


def test_an_unknown_family_raises(tmp_path, scanned):
    with pytest.raises(ValueError, match="family='huge' must be one of tiny"):
        export(tiny.compose(), scanned, tmp_path / "out", family="huge")


def test_a_shard_of_no_bytes_is_refused(tmp_path, scanned):
    with pytest.raises(ValueError, match="max_shard_bytes=0 must be at least 1"):
        export(tiny.compose(), scanned, tmp_path / "out", max_shard_bytes=0)


def test_of_several_processes_none_exports(tmp_path, scanned, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="process_count=2 must be 1 to export"):
        export(tiny.compose(), scanned, tmp_path / "out")


WRONG = {
    "of another shape": (lambda p: p["norm"].update(scale=jnp.zeros(9)), r"norm/scale is \(9,\), not \(8,\)"),
    "that lack a leaf": (lambda p: p.pop("norm"), "norm/scale has no value"),
    "with a leaf more": (lambda p: p.update(more=jnp.zeros(3)), "more is no parameter of the model"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_params_are_refused(tmp_path, scanned, kind):
    edit, reason = WRONG[kind]
    params = jax.tree.map(lambda leaf: leaf, scanned)
    edit(params)
    with pytest.raises(ValueError, match=reason):
        export(tiny.compose(), params, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_family_that_leaves_a_parameter_out_is_caught(tmp_path, scanned, register):
    short = types.ModuleType("short")
    short.MODEL_TYPES, short.write, short.rules = ("tiny",), tiny.write, lambda config: tiny.rules(config)[1:]
    register(tiny=short)
    with pytest.raises(ValueError, match="embedding/table of the model is not used"):
        export(tiny.compose(), scanned, tmp_path / "out")
