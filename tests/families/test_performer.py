"""Performer computes what performer-pytorch does, from its weights and back, and its presets have the paper's sizes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arch.families import performer
from arch.mixers import attention
from arch.ops.linear_attention import favor
from arch.positions import rope
from arch.published import Attributes
from arch.tasks import masked_tokens, next_token
from arch.weights import pretrained
from tests.families import fit, peers, performer_peer
from tests.families.performer_peer import MODELS

LAYER = 4 * 512**2 + 4 * 512 + 256 * 64
"""Of the paper's models: four products, two norms and the vectors."""
COUNTS = {
    "performer_trembl_causal": 36 * (LAYER + 2 * 512 * 1024 + 1024 + 512) + 29 * 512 + 1024,
    "performer_trembl": 36 * (LAYER + 2 * 512 * 1024 + 1024 + 512) + 29 * 512 + 1024,
    "performer_trembl_long": 6 * (LAYER + 2 * 512 * 2048 + 2048 + 512) + 29 * 512 + 1024,
    "performer_imagenet64_6": 6 * (LAYER + 2 * 512 * 2048 + 2048 + 512) + 256 * 512 + 1024,
    "performer_imagenet64_12": 12 * (LAYER + 2 * 512 * 2048 + 2048 + 512) + 256 * 512 + 1024,
}


def publish(name, folder, **changes):
    """A checkpoint as the package's state is saved, with what it holds twice and its constants."""
    folder.mkdir()
    tensors = performer_peer.tensors(name)
    layers = {tensor: value for tensor, value in tensors.items() if ".net." in tensor}
    tensors |= {tensor.replace("net", "proj_updater.instance"): value for tensor, value in layers.items()}
    tensors["performer.proj_updater.calls_since_last_redraw"] = np.array(0)
    tensors["layer_pos_emb.emb"] = np.zeros((29, 10), np.float32)
    (folder / "config.json").write_text(json.dumps({"model_type": "performer_pytorch"} | MODELS[name] | changes))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, tmp_path_factory):
    """(name, config, parameters) of a checkpoint."""
    folder = publish(request.param, tmp_path_factory.mktemp("published") / request.param)
    return request.param, *pretrained.load(folder)


def test_logits_of_packed_rows_are_those_of_the_package_but_for_what_is_added_to_positive_features(loaded, monkeypatch):
    monkeypatch.setitem(favor.FLOORS, "positive", 0.0)
    name, config, params = loaded
    peers.assert_logits(config, params, performer_peer.rows(), np.load(performer_peer.GOLDEN)[name])


def test_export_writes_the_tensors_and_the_arguments_that_were_read(loaded, tmp_path):
    name, config, params = loaded
    peers.assert_given_back(config, params, performer_peer.tensors(name), tmp_path / "model")


def test_the_random_vectors_are_those_of_the_file(loaded):
    name, _, params = loaded
    expected = performer_peer.tensors(name)["performer.net.layers.0.0.fn.fast_attention.projection_matrix"]
    np.testing.assert_array_equal(params["layers"]["0"]["performer"]["vectors"], expected)


def test_layers_that_differ_from_those_that_are_there_twice_are_refused(tmp_path):
    folder = publish("relu", tmp_path / "other")
    tensors = load_file(folder / "model.safetensors")
    tensors["performer.proj_updater.instance.layers.0.0.fn.to_q.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="proj_updater.instance.layers.0.0.fn.to_q.weight differs from performer.net"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(tie_embed=False), "tie_embed=False must be True"),
        (dict(reversible=True), "reversible=True must be False"),
        (dict(local_attn_heads=2), "local_attn_heads=2 must be 0"),
        (dict(new_trick=1), "new_trick=1 is not handled"),
    ],
)
def test_what_is_not_expressed_here_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        performer.read(Attributes(MODELS["causal"] | changes))


def changed(config, **changes):
    """The config with another mixer in each layer."""
    (layer,) = config.layers.pattern
    mixer, ffn = layer.sublayers
    layer = layer.replace(sublayers=(mixer.replace(**changes), ffn))
    return config.replace(layers=config.layers.replace(pattern=(layer,)))


def test_what_the_package_cannot_say_is_refused():
    config = performer.read(Attributes(MODELS["causal"]))
    for changes, message in (
        (dict(kernel="trigonometric"), "kernel='trigonometric' must be 'positive' or 'relu'"),
        (dict(position=rope.Config()), "pairing='halves' must be 'interleaved'"),
        (dict(redraw_every=3), "redraw_every=3 must be 0"),
    ):
        with pytest.raises(ValueError, match=message):
            performer.write(changed(config, **changes))
    (layer,) = config.layers.pattern
    other = layer.replace(sublayers=(attention.Config(num_heads=3, head_dim=8), layer.sublayers[1]))
    with pytest.raises(ValueError, match=r"sublayers=\(attention, mlp\) must be \(performer, mlp\) in this family"):
        performer.write(config.replace(layers=config.layers.replace(pattern=(other,))))


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_weights_of_the_paper_s_size(name):
    assert sum(leaf.size for leaf in fit.shapes(performer.PRESETS[name]).values()) == COUNTS[name]


@pytest.mark.parametrize("name, task", [("performer_trembl", masked_tokens), ("performer_trembl_causal", next_token)])
def test_a_preset_can_be_trained_on_its_task(name, task):
    task.Config().must_suit(performer.PRESETS[name], seq_len=1024)


def test_every_preset_is_held_here():
    assert performer.PRESETS.keys() == COUNTS.keys()
