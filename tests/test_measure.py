"""What is kept names the compilers that it depends on."""

import importlib.metadata
import sys

import jax
import jaxlib
import pytest

from benchmarks import measure


def loaded(monkeypatch, version):
    """As if this libtpu had been loaded into a JAX that names 0.0.48.*."""
    versions, requires = importlib.metadata.version, ["libtpu==0.0.48.*; extra == 'tpu'", "numpy>=2.0"]
    monkeypatch.setitem(sys.modules, "libtpu", object())
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "libtpu" else versions(name))


def test_without_libtpu_they_are_jax_and_jaxlib(monkeypatch):
    monkeypatch.delitem(sys.modules, "libtpu", raising=False)
    assert measure.compilers() == {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def test_libtpu_is_named_where_it_compiled(monkeypatch):
    loaded(monkeypatch, "0.0.48.1")
    assert measure.compilers()["libtpu"] == "0.0.48.1"


@pytest.mark.parametrize("version", ["0.0.52", "0.0.481"])
def test_another_libtpu_than_jax_names_is_refused(monkeypatch, version):
    loaded(monkeypatch, version)
    with pytest.raises(ImportError, match=f"libtpu=={version} must be 0.0.48.* with jax=={jax.__version__}"):
        measure.compilers()
