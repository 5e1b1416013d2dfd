"""A run's folder says what the run was made of, and a changed config is named leaf by leaf."""

import json
import math
import os
import subprocess

import jax
import pytest

from arch import config
from arch.train import provenance

CONFIG = {"seed": 3, "model": {"embed_dim": 5, "pattern": ({"name": "mamba"}, {"name": "moe", "k": 2})}, "path": ""}


def read(workdir, name):
    return json.loads((workdir / name).read_text())


def test_config_and_overrides_are_written_with_the_format_version(tmp_path):
    provenance.write(tmp_path / "run", CONFIG, {"seed": 3})
    expected = json.loads(json.dumps(CONFIG))
    assert read(tmp_path / "run", "config.json") == {"format_version": config.FORMAT_VERSION, "config": expected}
    assert read(tmp_path / "run", "overrides.json") == {"seed": 3}


def test_versions_say_what_ran_where_and_on_what(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "--config=configs/demo.py"])
    provenance.write(tmp_path, CONFIG, {})
    (entry,) = read(tmp_path, "versions.json")
    assert entry["command"] == ["run.py", "--config=configs/demo.py"]
    assert entry["packages"]["jax"] == jax.__version__
    assert set(entry["packages"]) >= {"arch-jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    devices = {"kind": jax.devices()[0].device_kind, "count": jax.device_count(), "processes": 1}
    assert entry["device"] == devices | {"cpus": os.cpu_count()}
    assert entry["date"].endswith("+00:00")


def test_a_run_that_is_done_keeps_its_record_and_says_what_another_config_would_change(tmp_path, caplog):
    caplog.set_level("INFO", logger="arch")
    provenance.write(tmp_path, CONFIG, {"seed": 3}, done=True)
    assert read(tmp_path, "config.json")["config"]["seed"] == 3 and not caplog.messages
    provenance.write(tmp_path, CONFIG | {"seed": 4}, {"seed": 4}, done=True)
    assert read(tmp_path, "config.json")["config"]["seed"] == 3 and read(tmp_path, "overrides.json") == {"seed": 3}
    assert len(read(tmp_path, "versions.json")) == 1
    assert caplog.messages == ["the run is done, and keeps the config that it had: seed: 3 -> 4 is ignored"]


def test_each_start_adds_an_entry(tmp_path):
    for _ in range(3):
        provenance.write(tmp_path, CONFIG, {})
    assert len(read(tmp_path, "versions.json")) == 3


def test_no_temporary_file_is_left(tmp_path):
    provenance.write(tmp_path, CONFIG, {})
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "overrides.json", "versions.json"}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    provenance.write(tmp_path, CONFIG, {})
    with pytest.raises(TypeError):
        provenance.write(tmp_path, CONFIG | {"seed": object()}, {})
    assert provenance.diff(provenance.read_config(tmp_path), CONFIG) == []


def test_the_revision_of_a_checkout_is_its_commit_and_whether_it_is_dirty(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert provenance.source_revision(tmp_path) == {}
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "message", "--no-verify")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert provenance.source_revision(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("2")
    assert provenance.source_revision(tmp_path) == {"commit": commit, "dirty": True}
    (tmp_path / "below").mkdir()
    assert provenance.source_revision(tmp_path / "below") == {}


def test_a_folder_without_a_run_has_no_config(tmp_path):
    assert provenance.read_config(tmp_path) is None


def test_what_is_no_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match=f"{tmp_path}/config.json is no config"):
        provenance.read_config(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    content = {"format_version": config.FORMAT_VERSION + 1, "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"format_version={config.FORMAT_VERSION + 1} .* must be at most"):
        provenance.read_config(tmp_path)


def test_a_config_does_not_differ_from_itself_after_a_round_trip(tmp_path):
    provenance.write(tmp_path, CONFIG, {})
    assert provenance.diff(provenance.read_config(tmp_path), CONFIG) == []


def test_diff_names_changed_leaves_by_path_with_both_values():
    new = {"seed": 3, "model": {"embed_dim": 7, "pattern": ({"name": "mamba"}, {"name": "moe", "k": 1})}, "path": ""}
    assert provenance.diff(CONFIG, new) == ["model.embed_dim: 5 -> 7", "model.pattern[1].k: 2 -> 1"]


@pytest.mark.parametrize(
    "old, new, lines",
    [
        ({"a": 1}, {}, ["a: 1 -> (absent)"]),
        ({}, {"a": "x"}, ["a: (absent) -> 'x'"]),
        ({"a": [1, 2]}, {"a": (1,)}, ["a[1]: 2 -> (absent)"]),
        ({"a": {"b": 1}}, {"a": 2}, ["a: {'b': 1} -> 2"]),
        ({"a": 1}, {"a": True}, ["a: 1 -> True"]),
        ({"a": math.nan}, {"a": math.nan}, []),
    ],
)
def test_diff_tells_absent_longer_and_retyped_leaves(old, new, lines):
    assert provenance.diff(old, new) == lines
