"""What the tests of published checkpoints share: a tiny model of a family of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.weight import unbox
from arch.weights import family
from arch.weights.export import export
from tests.weights import tiny


@pytest.fixture
def tiny_family(monkeypatch):
    """Only the tiny family is known."""
    monkeypatch.setattr(family, "modules", lambda: {"tiny": tiny})


@pytest.fixture(scope="session")
def scanned():
    """Parameters of the tiny model in scanned form."""
    model, rng = tiny.compose().make(), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: unbox(model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32)), shapes)


@pytest.fixture
def folder(tmp_path, scanned, tiny_family):
    """The tiny model as a published checkpoint of one file."""
    export(tiny.compose(), scanned, tmp_path / "tiny")
    return tmp_path / "tiny"
