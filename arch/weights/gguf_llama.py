"""GGUF's architecture `llama`: LLaMA, Mistral, SmolLM2 ... and, with experts, Mixtral.

Its converter turns the rows of Q and K, within each head, from

    [half, pair] (rotated as halves: transformers) to [pair, half] (rotated as neighbours: ggml)

which `View.heads` turns back. The scaling of a rotation is told by the metadata, or by a tensor of divisors.
"""

import re
from typing import Any

import numpy as np

from arch.data.gguf_header import Header
from arch.positions import rope, rope_llama3
from arch.weights.gguf_view import Keys, View, Views


def read(header: Header) -> tuple[dict[str, Any], dict[str, View]]:
    """The config's attributes, and each published tensor's place in the file.

    Raises:
      ValueError: a key or a tensor is not known, or they contradict each other.
    """
    tensors, values = header.tensors, Keys(header, "llama")
    number = values.number
    heads, width, blocks = number("attention.head_count"), number("embedding_length"), number("block_count")
    kv_heads = number("attention.head_count_kv", heads)
    head_dim = number("rope.dimension_count", max(1, width // heads))
    for name in ("attention.key_length", "attention.value_length"):
        values.expect(name, head_dim)
    values.expect("vocab_size", values.vocab_size)
    values.expect("attention.causal", True)
    values.expect("tensor_data_layout", "Meta AI original pth")
    experts = values.get("expert_count", 0)
    attributes = {
        "model_type": "mixtral" if experts else "llama",
        "vocab_size": values.vocab_size,
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": number("feed_forward_length"),
        "rms_norm_eps": values.get("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": number("context_length"),
        "rope_theta": values.get("rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    attributes |= _scaling(header, values, attributes)
    if experts:
        attributes |= {"num_local_experts": experts, "num_experts_per_tok": number("expert_used_count")}
    else:
        values.expect("expert_used_count", 0)
        attributes |= {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}
    values.finish()
    views = _views(header, heads, kv_heads)
    values.count("block_count", blocks, views, r"model\.layers\.(\d+)\..*")
    values.count("expert_count", experts, views, r"model\.layers\.0\..*\.experts\.(\d+)\..*")
    return attributes, views


def _scaling(header: Header, values: Keys, attributes: dict[str, Any]) -> dict[str, Any]:
    """The attribute of a scaled rotation: told by the metadata, or by Llama 3's factor of each frequency."""
    kind = values.get("rope.scaling.type", "linear" if values.get("rope.scale_linear", 1.0) != 1.0 else "none")
    values.ignore("rope.scaling.finetuned")
    scaling: dict[str, Any] = {}
    if kind in ("linear", "yarn"):
        scaling = {"rope_type": kind, "factor": values.get("rope.scaling.factor", values.get("rope.scale_linear", 1.0))}
    elif kind != "none":
        raise ValueError(f"{header.path}: rope.scaling.type={kind!r} must be one of none, linear, yarn")
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = values.get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in header.tensors:
        if scaling:
            raise ValueError(f"{header.path}: rope_freqs.weight beside rope.scaling.type={kind!r} is not handled")
        scaling = _llama3(header, attributes)
    return {"rope_scaling": scaling} if scaling else {}


def _llama3(header: Header, attributes: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling, if rope_freqs.weight, the divisor of each frequency, is what it gives.

    The file holds the divisors alone. All published Llama 3.x turn fewer than 1 time in 8192 tokens slower by the
    factor, more than 4 times as before, and blend between.
    """
    tensor = header.tensors["rope_freqs.weight"]
    if tensor.kind.name != "F32" or tensor.shape != (attributes["head_dim"] // 2,):
        raise ValueError(f"{header.path}: rope_freqs.weight must be F32 [{attributes['head_dim'] // 2}]")
    divisors = np.frombuffer(header.data, "<f4", tensor.shape[0], tensor.offset)
    if np.all(divisors == 1.0):
        return {}
    scheme = {"factor": float(divisors.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    theta, dim = attributes["rope_theta"], attributes["head_dim"]
    scaled = rope_llama3.Config(theta=theta, original_length=8192, **scheme).frequencies(dim)
    if not np.allclose(divisors, rope.Config(theta=theta).frequencies(dim) / scaled, rtol=1e-3):
        raise ValueError(f"{header.path}: rope_freqs.weight is no scaling of Llama 3, and no other is known")
    return {"rope_type": "llama3", "original_max_position_embeddings": 8192} | scheme


_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "block_sparse_moe.gate",
}
_EXPERTS = {"ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3"}
"""Mixtral's experts: `ffn_gate_exps` of all of them, or in old files `ffn_gate.3` of one."""


def _views(header: Header, heads: int, kv_heads: int) -> Views:
    views = Views(header.path)
    for name, tensor in header.tensors.items():
        found = re.fullmatch(r"blk\.(\d+)\.([a-z_]+?)(_exps|\.\d+)?\.(weight|bias)", name)
        if name == "rope_freqs.weight":
            continue
        if name in _OUTSIDE:
            views.add(_OUTSIDE[name], View(name))
        elif found and found[3] and found[2] in _EXPERTS and found[4] == "weight":
            theirs = f"model.layers.{found[1]}.block_sparse_moe.experts.{{}}.{_EXPERTS[found[2]]}.weight"
            if found[3] == "_exps" and len(tensor.shape) == 3:
                for i in range(tensor.shape[0]):
                    views.add(theirs.format(i), View(name, expert=i))
            else:
                views.add(theirs.format(found[3].lstrip(".")), View(name))
        elif found and not found[3] and found[2] in _INSIDE:
            turned = {"attn_q": heads, "attn_k": kv_heads}.get(found[2], 0)
            if turned and tensor.shape[0] % (2 * turned):
                rule = f"must be a multiple of {2 * turned}"
                raise ValueError(f"{header.path}: {name} has {tensor.shape[0]} rows, which {rule}")
            views.add(f"model.layers.{found[1]}.{_INSIDE[found[2]]}.{found[4]}", View(name, heads=turned))
        else:
            raise ValueError(f"{header.path}: tensor {name!r} is unknown in this architecture")
    return views
