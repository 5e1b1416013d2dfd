"""GGUF weights: every block format as the library has it, LLaMA and Mixtral exactly as they were before conversion."""

import struct
import tracemalloc

import gguf
import jax
import numpy as np
import pytest

from arch import tree
from arch.families import llama, mixtral
from arch.positions import rope, rope_llama3
from arch.weights import pretrained
from arch.weights.gguf import CHUNK, dequantized, open_gguf, readable
from arch.weights.target import canonical
from tests.data.gguf_file import build

KINDS = [kind for kind in gguf.GGMLQuantizationType if readable(kind)]
QUANTISABLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
ERRORS = {"F32": 0, "F16": 1e-3, "BF16": 4e-3, "Q8_0": 0.01, "Q5_0": 0.1, "Q5_1": 0.1, "Q4_0": 0.2, "Q4_1": 0.2}
HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 6, 2
SIZES = dict(vocab_size=14, embed_dim=10, num_layers=LAYERS, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM)


def test_these_block_formats_are_read():
    assert {kind.name for kind in KINDS} == {*QUANTISABLE, *"Q2_K Q3_K Q4_K Q5_K Q6_K NVFP4 IQ4_NL IQ4_XS".split(),
                                            *"IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split()}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_what_was_quantised_comes_back(name):
    kind = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(0).standard_normal((7, 512)).astype(np.float32)
    blocks = gguf.quants.quantize(values, kind)
    back = dequantized(blocks.reshape(-1).view(np.uint8), kind, (7, 512))
    np.testing.assert_allclose(back, values, atol=3 * ERRORS[name])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_blocks_in_pieces_are_what_the_library_makes_of_the_whole(kind):
    width = 512
    values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows = CHUNK // width + 3
    raw = np.random.default_rng(1).integers(0, 256, (rows, width // values * block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        whole = gguf.quants.dequantize(raw.view(np.float16) if kind.name == "F16" else raw, kind)
    np.testing.assert_array_equal(dequantized(raw.reshape(-1), kind, (rows, width)), whole)


def test_a_handmade_block_of_q4_k_is_as_its_layout_says():
    # d = 2, dmin = 1; sub-block 0 has scale 3 and minimum 5, the others 0; its values are bytes 0-31's low nibbles
    scales = bytes([3, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
    block = struct.pack("<ee", 2.0, 1.0) + scales + bytes(i % 16 for i in range(128))
    values = dequantized(np.frombuffer(block, np.uint8), gguf.GGMLQuantizationType.Q4_K, (256,))
    assert values[:32].tolist() == [2 * 3 * (i % 16) - 5 for i in range(32)] and not values[32:].any()


def test_a_handmade_block_of_q8_0_is_as_its_layout_says():
    block = struct.pack("<e32b", 0.5, *range(-16, 16))
    values = dequantized(np.frombuffer(block, np.uint8), gguf.GGMLQuantizationType.Q8_0, (32,))
    assert values.tolist() == [i / 2 for i in range(-16, 16)]


def turned(x, heads):
    """Rows as llama.cpp's converter leaves those of Q and K."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
}  # fmt: skip


def metadata(**changes):
    """Of the tiny LLaMA."""
    own = {
        "block_count": LAYERS, "context_length": 64, "embedding_length": 10, "feed_forward_length": 11,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.dimension_count": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 0.5**17, "rope.freq_base": 500.0, "vocab_size": 14,
    }  # fmt: skip
    own |= {key.replace("__", "."): value for key, value in changes.items()}
    given = {f"llama.{key}": value for key, value in own.items() if value is not None}
    return {"general.architecture": "llama", "general.name": "tiny"} | given


def converted(family, config, params):
    """The tensors of a GGUF file, from ours."""
    flat, out = tree.paths(params), {}
    for rule in family.rules(config):
        for name, value in zip(rule.theirs, rule.save([np.asarray(flat[path]) for path in rule.ours]), strict=True):
            heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
            for theirs, stored in NAMES.items():
                name = name.replace(theirs, stored)
            out[name] = turned(value, heads) if heads else value
    return out


def with_joined_experts(tensors):
    """The experts' matrices joined, as files of today have them."""
    out = {name: value for name, value in tensors.items() if ".experts." not in name}
    for i in range(LAYERS):
        for number, stored in ((1, "gate"), (2, "down"), (3, "up")):
            each = [tensors[f"blk.{i}.block_sparse_moe.experts.{e}.w{number}.weight"] for e in range(3)]
            out[f"blk.{i}.ffn_{stored}_exps.weight"] = np.stack(each)
    return out


def with_separate_experts(tensors):
    """The experts' matrices apart, as old files have them."""
    for number, stored in ((1, "gate"), (2, "down"), (3, "up")):
        for name in [name for name in tensors if f".w{number}." in name]:
            apart = name.replace("block_sparse_moe.experts.", f"ffn_{stored}.").replace(f".w{number}.", ".")
            tensors[apart] = tensors.pop(name)
    return tensors


def model(family, **changes):
    """A tiny model's config and parameters."""
    given = SIZES | {"hidden_dim": 11, "epsilon": 0.5**17, "position": rope.Config(theta=500.0)} | changes
    config = family.compose(**given)
    rng = np.random.default_rng(3)
    return config, jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), canonical(config))


def loaded(tmp_path, raw):
    """Config and parameters of a file of these bytes."""
    (tmp_path / "tiny.gguf").write_bytes(raw)
    found = pretrained.open(tmp_path / "tiny.gguf")
    return found.config, pretrained.read(found, canonical(found.config))


EXPERTS = {"expert_count": 3, "expert_used_count": 2}
CASES = {
    "llama": (llama, {}, {}, dict),
    "tied": (llama, {"tie_embeddings": True}, {}, dict),
    "biases": (llama, {"attention_bias": True, "mlp_bias": True}, {}, dict),
    "mixtral": (mixtral, {"num_experts": 3, "top_k": 2}, EXPERTS, with_joined_experts),
    "old mixtral": (mixtral, {"num_experts": 3, "top_k": 2}, EXPERTS, with_separate_experts),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_comes_back_from_gguf_exactly(tmp_path, case):
    family, changes, keys, arranged = CASES[case]
    config, params = model(family, **changes)
    found, values = loaded(tmp_path, build(metadata(**keys), arranged(converted(family, config, params))))
    assert found == config
    assert jax.tree.map(np.array_equal, values, params) == jax.tree.map(lambda _: True, params)


def test_llama_3_is_known_by_the_divisors_of_its_frequencies(tmp_path):
    config, params = model(llama)
    scheme = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_length": 8192}
    scaled = rope_llama3.Config(theta=5e5, **scheme)
    divisors = np.float32(rope.Config(theta=5e5).frequencies(HEAD_DIM) / scaled.frequencies(HEAD_DIM))
    tensors = converted(llama, config, params) | {"rope_freqs.weight": divisors}
    found, _ = loaded(tmp_path, build(metadata(rope__freq_base=5e5), tensors))
    assert found.layers.pattern[0].sublayers[0].position == scaled


def test_a_linear_scaling_is_read(tmp_path):
    config, params = model(llama)
    keys = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    found, _ = loaded(tmp_path, build(metadata(**keys), converted(llama, config, params)))
    assert found.layers.pattern[0].sublayers[0].position.factor == 4.0


KIND = gguf.GGMLQuantizationType
LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
# What is wrong: (changes of the metadata, changes of the tensors, what the message holds).
REFUSED = {
    "another architecture": ({"general.architecture": "gemma3"}, {}, "='gemma3' must be one of llama"),
    "no architecture": ({"general.architecture": 7}, {}, "general.architecture=7 must be one of llama"),
    "an unknown key": ({"llama.logit_scale": 0.5}, {}, "logit_scale=0.5 is not handled"),
    "another scaling": ({"llama.rope.scaling.type": "longrope"}, {}, "rope.scaling.type='longrope' must be"),
    "heads by layer": ({"llama.attention.head_count": [4, 4]}, {}, "attention.head_count=.* must be one number"),
    "many layers": ({"llama.block_count": 2**32 - 1}, {}, "block_count=4294967295 must be 2"),
    "many experts": ({"llama.expert_count": 2**31, "llama.expert_used_count": 2}, {}, "expert_count=.* must be 0"),
    "wider values": ({"llama.attention.value_length": 8}, {}, "attention.value_length=8 must be 6"),
    "another vocabulary": ({"llama.vocab_size": 15}, {}, "vocab_size=15 must be 14"),
    "another width": ({"llama.embedding_length": 12}, {}, r"embed_tokens.weight has shape \[14, 10\], not \[14, 12\]"),
    "an unknown tensor": ({}, {"blk.0.attn_q_norm.weight": np.ones(6)}, "tensor 'blk.0.attn_q_norm.weight' is unknown"),
    "odd rows": ({}, {"blk.0.attn_q.weight": np.ones((7, 10))}, "has 7 rows, which must be a multiple of 8"),
    "no table": ({}, {"token_embd.weight": None}, "token_embd.weight is missing"),
    "a missing tensor": ({}, {"blk.1.attn_v.weight": None}, "layers.1.self_attn.v_proj.weight is missing in the file"),
    "NaN": ({}, {"blk.1.attn_norm.weight": np.full(10, np.nan)}, "input_layernorm.weight has entries that are NaN"),
    "NaN of 16 bits": ({}, {"output_norm.weight": ((10,), KIND.F16, b"\xff\x7f" * 10)}, "norm.weight has entries that"),
    "a format nobody reads": ({}, {"output_norm.weight": ((32,), KIND.Q8_1, bytes(40))}, "of type Q8_1, which"),
    "whole numbers": ({}, {"output_norm.weight": ((10,), KIND.I32, bytes(40))}, "is of type I32, which cannot"),
    "odd divisors": ({}, {"rope_freqs.weight": np.array([1.0, 2.0, 9.0])}, "is no scaling of Llama 3"),
    "two scalings": (LINEAR, {"rope_freqs.weight": np.ones(3)}, "rope_freqs.weight beside rope.scaling"),
}


@pytest.fixture(scope="module")
def whole():
    """Metadata and tensors of the tiny LLaMA."""
    return metadata(), converted(llama, *model(llama))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path, whole, case):
    keys, changes, reason = REFUSED[case]
    tensors = {name: value for name, value in (whole[1] | changes).items() if value is not None}
    with pytest.raises(ValueError, match=reason) as error:
        loaded(tmp_path, build(whole[0] | keys, tensors))
    assert "tiny.gguf" in str(error.value)


def test_a_tensor_is_read_alone(tmp_path, whole):
    (tmp_path / "tiny.gguf").write_bytes(build(*whole))
    source = open_gguf(tmp_path / "tiny.gguf")
    assert source.tensors["model.layers.1.self_attn.k_proj.weight"].shape == (KV_HEADS * HEAD_DIM, 10)
    stored = whole[1]["blk.1.attn_k.weight"]
    np.testing.assert_array_equal(turned(source.read("model.layers.1.self_attn.k_proj.weight"), KV_HEADS), stored)


def test_dequantising_needs_little_more_memory_than_the_values():
    rows, width = 1 << 13, 1 << 11
    blocks = np.zeros(rows * width // 32 * 34, np.uint8)
    tracemalloc.start()
    try:
        values = dequantized(blocks, KIND.Q8_0, (rows, width))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * values.nbytes


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent.gguf: No such file or directory"):
        pretrained.open(tmp_path / "absent.gguf")


def test_a_folder_with_the_name_of_a_file_is_named(tmp_path):
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(ValueError, match="model.gguf: Is a directory"):
        pretrained.open(tmp_path / "model.gguf")
