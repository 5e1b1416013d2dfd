"""GLA computes what its authors' flash-linear-attention does, from its weights and back; presets have its sizes."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from arch.families import gla
from arch.published import Attributes
from arch.weights import pretrained
from tests.families import fit, gla_peer, peers
from tests.families.gla_peer import MODELS

COUNTS = {"gla_340m": 341_707_776, "gla_1_3b": 1_365_514_240, "gla_2_7b": 2_703_583_744}
"""The files of gla-1.3B-100B have 2.733 GB in bfloat16, 2.3 MB of them its tokenizer."""


@pytest.fixture(scope="module", params=[pytest.param("plain", marks=pytest.mark.slow), "tied"])
def loaded(request, tmp_path_factory):
    """(name, config, parameters) of a checkpoint as transformers saves it with their class."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text(json.dumps({"model_type": "gla"} | MODELS[request.param]))
    save_file(gla_peer.tensors(request.param), folder / "model.safetensors")
    return request.param, *pretrained.load(folder)


def test_logits_of_packed_rows_are_those_of_flash_linear_attention(loaded):
    name, config, params = loaded
    peers.assert_logits(config, params, gla_peer.rows(), np.load(gla_peer.GOLDEN)[name])


def test_export_writes_the_tensors_and_the_attributes_that_were_read(loaded, tmp_path):
    name, config, params = loaded
    peers.assert_given_back(config, params, gla_peer.tensors(name), tmp_path / "model")


def test_older_files_name_the_norm_and_the_table_differently(loaded, tmp_path):
    name, config, params = loaded
    older = {"g_norm_swish_gate": "g_norm", "model.embeddings": "model.embed_tokens"}
    tensors = gla_peer.tensors(name)
    for new, old in older.items():
        tensors = {tensor.replace(new, old): value for tensor, value in tensors.items()}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gla"} | MODELS[name]))
    save_file(tensors, tmp_path / "model.safetensors")
    again, twice = pretrained.load(tmp_path)
    assert again == config
    assert np.array_equal(twice["embedding"]["table"], params["embedding"]["table"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(use_short_conv=True), "use_short_conv=True must be False"),
        (dict(feature_map="relu"), "feature_map='relu' must be None"),
        (dict(num_kv_heads=1), "num_kv_heads=1 must be None or 3"),
        (dict(attn={"layers": [0], "num_heads": 3}), "attn={'layers': .0., 'num_heads': 3} must be None"),
        (dict(expand_k=0.3), "key_dim=7 must be a multiple of num_heads=3"),
        (dict(new_trick=1), "new_trick=1 is not handled"),
    ],
)
def test_what_is_not_expressed_here_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        gla.read(Attributes(MODELS["plain"] | changes))


@pytest.mark.parametrize("changes", [dict(gate_bias=True), dict(gate_rank=8)])
def test_writing_refuses_what_their_attributes_cannot_say(changes):
    config = gla.PRESETS["gla_340m"]
    (layer,) = config.layers.pattern
    mixer, ffn = layer.sublayers
    layers = config.layers.replace(pattern=(layer.replace(sublayers=(mixer.replace(**changes), ffn)),))
    with pytest.raises(ValueError, match=r"sublayers\[0\].gate_\w+=\w+ must be \w+ in this family"):
        gla.write(config.replace(layers=layers))


@pytest.mark.parametrize("width", [1, 7, 49, 93, 2560])
def test_any_width_of_the_heads_is_written_and_read_again(width):
    config = gla.compose(embed_dim=49 * 7, num_layers=1, num_heads=1, key_dim=width, value_dim=3 * width)
    assert gla.read(Attributes(gla.write(config))) == config


def test_the_defaults_are_those_of_the_model_of_1_3b():
    assert gla.read(Attributes({})) == gla.PRESETS["gla_1_3b"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "gla_340m")) for n in COUNTS])
def test_a_preset_has_the_published_number_of_parameters(name):
    count = sum(leaf.size for leaf in fit.shapes(gla.PRESETS[name]).values())
    assert count == COUNTS[name]
    printed = {"gla_340m": 0.34, "gla_1_3b": 1.365, "gla_2_7b": 2.7}[name]
    assert count / 1e9 == pytest.approx(printed, rel=0.01)


def test_every_preset_is_held_here():
    assert gla.PRESETS.keys() == COUNTS.keys()
