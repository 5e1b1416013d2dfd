"""RWKV-7 is what the package of its authors computes, and its presets have the published number of parameters."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.families import rwkv7_lm
from tests.families import fit, peers, rwkv7_peer

COUNTS = {
    "rwkv7_0_1b": 191_034_624,
    "rwkv7_0_4b": 450_767_872,
    "rwkv7_1_5b": 1_527_404_544,
    "rwkv7_2_9b": 2_947_735_040,
}


def parameters(theirs):
    """Ours by canonical path. Their mu is one minus ours."""
    ours = {"embedding/table": theirs["emb.weight"], "embedding/output": theirs["head.weight"]}
    ours |= _norm("embedding_norm", theirs, "blocks.0.ln0") | _norm("norm", theirs, "ln_out")
    vector = lambda name: theirs[name].reshape(-1)
    for i in range(rwkv7_peer.SIZES["num_layers"]):
        layer, mixer = f"layers/{i}", {}
        ours |= _norm(f"{layer}/rwkv7_norm", theirs, f"blocks.{i}.ln1")
        ours |= _norm(f"{layer}/channel_mix_norm", theirs, f"blocks.{i}.ln2")
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        for name in ("receptance", "decay", "key", "value", "rate", "gate"):
            short = {"decay": "w", "rate": "a"}.get(name, name[0])
            mixer[f"mix_{name}"] = 1 - vector(f"{att}.x_{short}")
            if f"{att}.{short}1" in theirs:
                mixer |= {f"{name}_down": theirs[f"{att}.{short}1"], f"{name}_up": theirs[f"{att}.{short}2"]}
            if f"{att}.{short}0" in theirs:
                mixer[f"{name}_bias"] = vector(f"{att}.{short}0")
        for name in ("receptance", "key", "value", "output"):
            mixer[name.replace("output", "out")] = theirs[f"{att}.{name}.weight"].T
        heads = theirs[f"{att}.r_k"].shape
        mixer |= {"removal": vector(f"{att}.k_k"), "boost": vector(f"{att}.k_a"), "bonus": theirs[f"{att}.r_k"]}
        mixer |= {"norm": theirs[f"{att}.ln_x.weight"].reshape(heads)}
        mixer |= {"norm_bias": theirs[f"{att}.ln_x.bias"].reshape(heads)}
        ours |= {f"{layer}/rwkv7/{name}": value for name, value in mixer.items()}
        ours[f"{layer}/channel_mix/mix_key"] = 1 - vector(f"{ffn}.x_k")
        ours |= {f"{layer}/channel_mix/{name}": theirs[f"{ffn}.{name}.weight"].T for name in ("key", "value")}
    return ours


def _norm(ours, theirs, name):
    return {f"{ours}/scale": theirs[f"{name}.weight"], f"{ours}/bias": theirs[f"{name}.bias"]}


def test_logits_of_packed_rows_are_those_of_the_authors_package():
    config = rwkv7_lm.compose(**rwkv7_peer.SIZES)
    params = parameters(rwkv7_peer.tensors())
    assert {path: value.shape for path, value in params.items()} == {k: v.shape for k, v in fit.shapes(config).items()}
    params = tree.from_paths({path: jnp.asarray(value, jnp.float32) for path, value in params.items()})
    peers.assert_logits(config, params, rwkv7_peer.rows(), np.load(rwkv7_peer.GOLDEN)["logits"])


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "rwkv7_0_1b")) for n in COUNTS])
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(rwkv7_lm.PRESETS[name]).values()) == COUNTS[name]


def test_every_preset_is_held_here():
    assert rwkv7_lm.PRESETS.keys() == COUNTS.keys()


def test_one_layer_is_refused():
    with pytest.raises(ValueError, match="num_layers=1 must be at least 2"):
        rwkv7_lm.compose(embed_dim=24, num_layers=1, head_dim=8)
