"""GPT-2, BLOOM and Mamba come back from GGUF as they were before conversion."""

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.families import bloom, gpt, mamba_lm
from arch.train import verify
from arch.weights import pretrained
from arch.weights.target import canonical
from tests.data.gguf_file import build

EPSILON = 0.5**17
COMMON = {"context_length": 32, "embedding_length": 12, "block_count": 2}
GPT2 = COMMON | {"feed_forward_length": 11, "attention.head_count": 3, "attention.layer_norm_epsilon": EPSILON}
BLOOM = COMMON | {
    "feed_forward_length": 48, "attention.head_count": 3, "attention.head_count_kv": 3, "vocab_size": 14,
    "attention.layer_norm_epsilon": EPSILON,
}  # fmt: skip
MAMBA = COMMON | {
    "feed_forward_length": 0, "attention.head_count": 0, "ssm.conv_kernel": 4, "ssm.inner_size": 24,
    "ssm.state_size": 5, "ssm.time_step_rank": 3, "ssm.dt_b_c_rms": False, "vocab_size": 14,
    "attention.layer_norm_rms_epsilon": EPSILON,
}  # fmt: skip
DROPOUT = {f"{where}_dropout": 0.1 for where in ("attention", "residual", "embedding")}  # transformers' default


def tensor_names(architecture):
    """The library's own map from published names to those of GGUF files."""
    return gguf.get_tensor_name_map(architecture, 2)


def converted(family, config, params, names):
    """The tensors of a GGUF file, from ours, as llama.cpp's converter makes them."""
    flat, out = tree.paths(params), {}
    for rule in family.rules(config):
        for name, value in zip(rule.theirs, rule.save([np.asarray(flat[path]) for path in rule.ours]), strict=True):
            ends = (".weight", ".bias")
            stored = names.get_name(name, ends) or names.get_name(name.removeprefix("transformer."), ends)
            if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
                value = value.T
            if ".query_key_value." in name:
                value = value.reshape(3, 3, 4, -1).swapaxes(0, 1).reshape(value.shape)
            if name.endswith("conv1d.weight"):
                value = value[:, 0]
            if name.endswith("A_log"):
                value = -np.exp(value)
            out[stored] = value
    return out


HEADS = dict(num_heads=3, hidden_dim=11, length=32, **DROPOUT)
CASES = {
    "gpt2": (gpt, gguf.MODEL_ARCH.GPT2, GPT2, HEADS),
    "gpt2 untied": (gpt, gguf.MODEL_ARCH.GPT2, GPT2, HEADS | {"tie_embeddings": False}),
    "bloom": (bloom, gguf.MODEL_ARCH.BLOOM, BLOOM, dict(num_heads=3)),
    "mamba": (mamba_lm, gguf.MODEL_ARCH.MAMBA, MAMBA, dict(inner_dim=24, state_dim=5, conv_width=4, dt_rank=3)),
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """A tiny model's config and parameters, and a file of it."""
    family, architecture, own, sizes = CASES[request.param]
    config = family.compose(vocab_size=14, embed_dim=12, num_layers=2, epsilon=EPSILON, **sizes)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape, np.float32), canonical(config))
    name = gguf.MODEL_ARCH_NAMES[architecture]
    metadata = {"general.architecture": name} | {f"{name}.{key}": value for key, value in own.items()}
    tensors = converted(family, config, params, tensor_names(architecture))
    (tmp_path / "tiny.gguf").write_bytes(build(metadata, tensors))
    return config, params, tmp_path / "tiny.gguf"


def test_a_model_comes_back_from_gguf(case):
    config, params, file = case
    found, values = pretrained.load(file)
    assert found == config
    for path, value in tree.paths(values).items():
        rtol = 1e-5 if path.endswith("A_log") else 0  # log(exp(x))
        np.testing.assert_allclose(value, tree.paths(params)[path], rtol=rtol, atol=rtol, err_msg=path)


# Of a GPT-2 in GGUF transformers reads neither length nor width of the layers: only the four published sizes load.
@pytest.mark.slow
@pytest.mark.parametrize("case", ["bloom", "mamba"], indirect=True)
def test_transformers_reads_the_file_alike(case):
    config, params, file = case
    try:
        verify.interpreter()
    except ValueError as error:
        pytest.skip(str(error))
    assert verify.difference(config.make(), jax.tree.map(jnp.asarray, params), str(file)) < 1e-4


def test_more_layers_than_tensors_are_refused(tmp_path):
    metadata = {"general.architecture": "mamba"} | {f"mamba.{key}": value for key, value in MAMBA.items()}
    tensors = {"token_embd.weight": np.ones((14, 12)), "output_norm.weight": np.ones(12)}
    (tmp_path / "tiny.gguf").write_bytes(build(metadata, tensors))
    with pytest.raises(ValueError, match="tiny.gguf: mamba.block_count=2 must be 0, as many as have tensors"):
        pretrained.open(tmp_path / "tiny.gguf")
