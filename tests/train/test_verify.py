"""The Python that has transformers is found from any folder."""

import importlib.util

import pytest

from arch.train import verify
from tests.commands import ROOT


def test_the_environment_names_it_before_all_others(monkeypatch):
    monkeypatch.setenv(verify.ENVIRONMENT, "/some/python")
    assert verify.peers_python() == "/some/python"


def test_without_it_the_repository_s_is_meant_in_any_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(verify.ENVIRONMENT, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert verify.peers_python() == str(ROOT / ".venv-peers" / "bin" / "python")


def test_one_that_is_absent_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setenv(verify.ENVIRONMENT, "/absent/python")
    with pytest.raises(ValueError, match="/absent/python does not exist: `make peers` builds it"):
        verify.interpreter()
