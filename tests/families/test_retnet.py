"""RetNet computes what its authors' torchscale does, from its weights and back; its presets have the paper's sizes."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from arch.families import retnet
from arch.published import Attributes
from arch.weights import pretrained
from tests.families import fit, peers, retnet_peer
from tests.families.retnet_peer import MODELS

COUNTS = {  # table 2 prints 1.3B, 2.7B and 6.7B
    "retnet_1_3b": 24 * (12 * 2048**2 + 4 * 2048) + 50257 * 2048 + 2 * 2048,
    "retnet_2_7b": 32 * (12 * 2560**2 + 4 * 2560) + 50257 * 2560 + 2 * 2560,
    "retnet_6_7b": 32 * (12 * 4096**2 + 4 * 4096) + 50257 * 4096 + 2 * 4096,
}


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, tmp_path_factory):
    """(name, config, parameters) of a checkpoint as torchscale's state is saved, with its constants."""
    folder = tmp_path_factory.mktemp("published")
    tensors = retnet_peer.tensors(request.param) | {"retnet_rel_pos.decay": np.zeros(3, np.float32)}
    tensors.setdefault("output_projection.weight", tensors["embed_tokens.weight"])
    (folder / "config.json").write_text(json.dumps({"model_type": "torchscale_retnet"} | MODELS[request.param]))
    save_file(tensors, folder / "model.safetensors")
    return request.param, *pretrained.load(folder)


def test_logits_of_packed_rows_are_those_of_torchscale(loaded):
    name, config, params = loaded
    peers.assert_logits(config, params, retnet_peer.rows(), np.load(retnet_peer.GOLDEN)[name])


def test_export_writes_the_tensors_and_the_arguments_that_were_read(loaded, tmp_path):
    name, config, params = loaded
    peers.assert_given_back(config, params, retnet_peer.tensors(name), tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(deepnorm=True), "deepnorm=True must be False"),
        (dict(moe_freq=2), "moe_freq=2 must be 0"),
        (dict(activation_fn="relu"), "activation_fn='relu' must be one of gelu, swish"),
        (dict(decoder_retention_heads=12), "embed_dim=24 must give each of num_heads=12 at least 4 channels"),
        (dict(new_trick=1), "new_trick=1 is not handled"),
    ],
)
def test_what_is_not_expressed_here_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        retnet.read(Attributes(MODELS["plain"] | changes))


def test_the_paper_s_own_models_are_not_torchscale_s():
    with pytest.raises(ValueError, match=r"sublayers=\(retention, mlp\) must be \(retention, gated_mlp\)"):
        retnet.write(retnet.PRESETS["retnet_1_3b"])


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_published_number_of_parameters(name):
    count = sum(leaf.size for leaf in fit.shapes(retnet.PRESETS[name]).values())
    assert count == COUNTS[name]
    printed = float(name.removeprefix("retnet_").removesuffix("b").replace("_", "."))
    assert count / 1e9 == pytest.approx(printed, rel=0.025)  # GPT-3's 2.7B and 6.7B are 2.65 and 6.66


def test_every_preset_is_held_here():
    assert retnet.PRESETS.keys() == COUNTS.keys()
