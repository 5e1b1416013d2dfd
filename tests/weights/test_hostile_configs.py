"""Hostile configs raise a ValueError that names the file and the reason, before anything of the model is made."""

import json
import os
import tracemalloc

import jax
import jax.numpy as jnp
import pytest

from arch.families import bloom, llama, t5
from arch.weights import family, pretrained
from arch.weights.export import export
from arch.weights.source import JSON_LIMIT
from arch.weights.target import canonical

pytestmark = pytest.mark.usefixtures("tiny_family")


def refused(folder, reason, file="config.json"):
    with pytest.raises(ValueError) as error:
        pretrained.open(folder)
    assert str(folder / file) in str(error.value) and reason in str(error.value)


CONFIGS = {
    "not JSON": ("model_type: tiny", "Expecting value"),
    "not text": (b"\xff\xfe\xff", "decode"),
    "a list": ("[]", "JSON must be an object, not list"),
    "nested deeply": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    "a list nested deeply": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "an attribute twice": ('{"model_type": "tiny", "model_type": "huge"}', "'model_type' is there twice"),
    "a number of many digits": ('{"vocab_size": 1' + "0" * 5000 + "}", "digits"),
}

MODELS = {
    "no model_type": ({"model_type": None}, "model_type=None must be one of tiny"),
    "a model_type of another kind": ({"model_type": {"tiny": 1}}, "model_type={'tiny': 1} must be one of tiny"),
    "a size of another kind": ({"embed_dim": "eight"}, "embed_dim"),
    "a negative size": ({"embed_dim": -8}, "embed_dim=-8 must be at least 1"),
    "a size that no array has": ({"vocab_size": 2**70}, "at most 2147483647"),
    "a thousand million layers": ({"num_layers": 10**9}, "num_layers=1000000000 is more than 31 tensors can make"),
    "a model larger than the file": ({"hidden_dim": 2**30}, "model.h.0.gate.0 has shape [10, 8], not [1073741824, 8]"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_is_refused_that_holds(folder, kind):
    text, reason = CONFIGS[kind]
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, reason)


def test_a_missing_config_is_named(folder):
    (folder / "config.json").unlink()
    refused(folder, "is missing")


def test_a_large_config_is_not_read(folder):
    os.truncate(folder / "config.json", JSON_LIMIT + 1)
    refused(folder, f"at most {JSON_LIMIT} are read")


@pytest.mark.parametrize("kind", MODELS)
def test_a_config_is_refused_that_describes(folder, kind):
    changes, reason = MODELS[kind]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    refused(folder, reason, "")


MIB = 2**20
SMALL = dict(num_layers=1, embed_dim=6, num_heads=2, vocab_size=11)
GREEDY = {
    "heads of many channels": (llama, dict(hidden_dim=7), {"head_dim": 4 * 10**7}, "head_dim=40000000 is more than 11"),
    "many heads": (bloom, {}, {"n_head": 2**24, "hidden_size": 2**24}, "num_heads=16777216 is more than 24"),
    "many buckets": (t5, dict(hidden_dim=7, head_dim=3, buckets=8, max_distance=13), {
        "relative_attention_num_buckets": 2 * 10**7, "relative_attention_max_distance": 10**8,
    }, "buckets=20000000 is more than 11"),
}  # fmt: skip


def published(folder, monkeypatch, module, config, changes):
    """A model of zeros whose config.json is changed after it was written."""
    monkeypatch.setattr(family, "modules", lambda: {"only": module})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), canonical(config))
    export(config, zeros, folder / "greedy")
    file = folder / "greedy/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder / "greedy"


def host_peak(work):
    """Bytes that Python and numpy held at most during some work, beside what they held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", GREEDY)
def test_a_config_costs_no_memory_that_asks_for(tmp_path, monkeypatch, kind):
    module, sizes, changes, reason = GREEDY[kind]
    folder = published(tmp_path, monkeypatch, module, module.compose(**SMALL, **sizes), changes)
    assert host_peak(lambda: refused(folder, reason, "")) < 8 * MIB


def test_a_distance_costs_no_memory_however_great(tmp_path, monkeypatch):
    config = t5.compose(**SMALL, hidden_dim=7, head_dim=3, buckets=8, max_distance=13)
    folder = published(tmp_path, monkeypatch, t5, config, {"relative_attention_max_distance": 2**31 - 1})
    assert host_peak(lambda: pretrained.open(folder)) < 16 * MIB
