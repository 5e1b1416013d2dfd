"""A GGUF file's tensors become published ones one by one: none takes another's place."""

import numpy as np
import pytest

from arch.weights import gguf_architectures
from tests.data.gguf_file import build, header
from tests.weights import test_gguf, test_gguf_plain

OWN = {"gpt2": test_gguf_plain.GPT2, "bloom": test_gguf_plain.BLOOM, "mamba": test_gguf_plain.MAMBA}


def views(tmp_path, architecture, *names):
    """The views of a file with the two tensors that every file has and those of these names."""
    metadata = test_gguf.metadata(**test_gguf.EXPERTS)
    if architecture in OWN:
        metadata = {f"{architecture}.{key}": value for key, value in OWN[architecture].items()}
    tensors = {name: np.ones((3, 4, 5) if "_exps" in name else (4, 5)) for name in names}
    tensors = {"token_embd.weight": np.ones((14, 12)), "output_norm.weight": np.ones(12)} | tensors
    return gguf_architectures.read(header(tmp_path, build(metadata | {"general.architecture": architecture}, tensors)))


@pytest.mark.parametrize(
    "architecture, name",
    [
        ("gpt2", "blk.3.token_embd.weight"),
        ("gpt2", "blk.0.output_norm.bias"),
        ("bloom", "blk.1.token_embd_norm.weight"),
        ("mamba", "blk.1.output.weight"),
    ],
)
def test_a_layer_s_tensor_that_stands_outside_the_layers_is_refused(tmp_path, architecture, name):
    with pytest.raises(ValueError, match=f"file.gguf: tensor '{name}' must be outside the layers"):
        views(tmp_path, architecture, name)


@pytest.mark.parametrize(
    "architecture, name",
    [("gpt2", "attn_qkv.weight"), ("bloom", "ffn_up.bias"), ("mamba", "ssm_in.weight"), ("mamba", "ssm_a")],
)
def test_a_tensor_of_no_layer_that_stands_in_the_layers_is_refused(tmp_path, architecture, name):
    with pytest.raises(ValueError, match=f"file.gguf: tensor '{name}' must be in a layer"):
        views(tmp_path, architecture, name)


@pytest.mark.parametrize("joined_first", [True, False])
def test_an_expert_that_is_there_twice_is_refused(tmp_path, joined_first):
    names = ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate.2.weight"]
    first, second = names if joined_first else reversed(names)
    reason = f"tensors '{first}' and '{second}' are both model.layers.0.block_sparse_moe.experts.2.w1.weight"
    with pytest.raises(ValueError, match=reason):
        views(tmp_path, "llama", first, second)


@pytest.mark.parametrize("name", ["blk.0.output_norm.weight", "attn_q.weight"])
def test_a_llama_s_tensor_in_the_wrong_place_is_unknown(tmp_path, name):
    with pytest.raises(ValueError, match=f"tensor '{name}' is unknown"):
        views(tmp_path, "llama", name)
