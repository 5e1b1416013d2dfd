"""GGUF's architectures whose tensors need little more than another name: `gpt2`, `bloom` and `mamba`.

GPT-2's matrices are stored transposed ([out, in] for [in, out]), BLOOM's query, key and value one after the other,
Mamba's convolution without its axis of one channel, and Mamba's A as -exp(A_log).
"""

import dataclasses
import re
from typing import Any

from arch.data.gguf_header import Header
from arch.weights.gguf_view import Keys, View, Views

T = "o i -> i o"
GPT2 = {
    "token_embd": ("transformer.wte", ""),
    "position_embd": ("transformer.wpe", ""),
    "output_norm": ("transformer.ln_f", ""),
    "output": ("lm_head", ""),
    "attn_norm": ("transformer.h.{}.ln_1", ""),
    "ffn_norm": ("transformer.h.{}.ln_2", ""),
    "attn_qkv": ("transformer.h.{}.attn.c_attn", T),
    "attn_output": ("transformer.h.{}.attn.c_proj", T),
    "ffn_up": ("transformer.h.{}.mlp.c_fc", T),
    "ffn_down": ("transformer.h.{}.mlp.c_proj", T),
}
BLOOM = {
    "token_embd": ("transformer.word_embeddings", ""),
    "token_embd_norm": ("transformer.word_embeddings_layernorm", ""),
    "output_norm": ("transformer.ln_f", ""),
    "output": ("lm_head", ""),
    "attn_norm": ("transformer.h.{}.input_layernorm", ""),
    "ffn_norm": ("transformer.h.{}.post_attention_layernorm", ""),
    "attn_qkv": ("transformer.h.{}.self_attention.query_key_value", ""),
    "attn_output": ("transformer.h.{}.self_attention.dense", ""),
    "ffn_up": ("transformer.h.{}.mlp.dense_h_to_4h", ""),
    "ffn_down": ("transformer.h.{}.mlp.dense_4h_to_h", ""),
}
MAMBA = {
    "token_embd": ("backbone.embeddings", ""),
    "output_norm": ("backbone.norm_f", ""),
    "output": ("lm_head", ""),
    "attn_norm": ("backbone.layers.{}.norm", ""),
    "ssm_in": ("backbone.layers.{}.mixer.in_proj", ""),
    "ssm_conv1d": ("backbone.layers.{}.mixer.conv1d", "f w -> f 1 w"),
    "ssm_x": ("backbone.layers.{}.mixer.x_proj", ""),
    "ssm_dt": ("backbone.layers.{}.mixer.dt_proj", ""),
    "ssm_out": ("backbone.layers.{}.mixer.out_proj", ""),
}
BARE = {"ssm_a": ("backbone.layers.{}.mixer.A_log", True), "ssm_d": ("backbone.layers.{}.mixer.D", False)}
"""Mamba's tensors without the ending `.weight`, and whether they are stored as -exp."""


def gpt2(header: Header) -> tuple[dict[str, Any], dict[str, View]]:
    """As `gguf_llama.read`, of a GPT-2."""
    keys = Keys(header, "gpt2")
    attributes = {
        "model_type": "gpt2",
        "vocab_size": keys.vocab_size,
        "n_positions": keys.number("context_length"),
        "n_embd": keys.number("embedding_length"),
        "n_layer": keys.number("block_count"),
        "n_head": keys.number("attention.head_count"),
        "n_inner": keys.number("feed_forward_length"),
        "layer_norm_epsilon": keys.get("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    keys.finish()
    views = _views(header, GPT2)
    keys.count("block_count", attributes["n_layer"], views, r"transformer\.h\.(\d+)\..*")
    return attributes, views


def bloom(header: Header) -> tuple[dict[str, Any], dict[str, View]]:
    """As `gguf_llama.read`, of a BLOOM."""
    keys = Keys(header, "bloom")
    keys.ignore("context_length")  # ALiBi has no end
    width, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    keys.expect("feed_forward_length", 4 * width)
    keys.expect("attention.head_count_kv", heads)
    keys.expect("vocab_size", keys.vocab_size)
    attributes = {
        "model_type": "bloom",
        "vocab_size": keys.vocab_size,
        "hidden_size": width,
        "n_layer": keys.number("block_count"),
        "n_head": heads,
        "layer_norm_epsilon": keys.get("attention.layer_norm_epsilon"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    keys.finish()
    views = _views(header, BLOOM)
    keys.count("block_count", attributes["n_layer"], views, r"transformer\.h\.(\d+)\..*")
    for name in [name for name in views if ".query_key_value." in name]:
        if header.tensors[views[name].name].shape[0] % (3 * heads):
            raise ValueError(f"{header.path}: {views[name].name} must have rows for 3 times {heads} heads")
        views[name] = dataclasses.replace(views[name], fused_heads=heads)
    return attributes, views


def mamba(header: Header) -> tuple[dict[str, Any], dict[str, View]]:
    """As `gguf_llama.read`, of a Mamba."""
    keys = Keys(header, "mamba")
    keys.ignore("context_length")  # it has no end
    keys.expect("feed_forward_length", 0)
    keys.expect("attention.head_count", 0)
    keys.expect("ssm.dt_b_c_rms", False)
    keys.expect("vocab_size", keys.vocab_size)
    width, inner = keys.number("embedding_length"), keys.number("ssm.inner_size")
    attributes = {
        "model_type": "mamba",
        "vocab_size": keys.vocab_size,
        "hidden_size": width,
        "num_hidden_layers": keys.number("block_count"),
        "expand": inner / width,
        "conv_kernel": keys.number("ssm.conv_kernel"),
        "state_size": keys.number("ssm.state_size"),
        "time_step_rank": keys.number("ssm.time_step_rank"),
        "layer_norm_epsilon": keys.get("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    keys.finish()
    views = _views(header, MAMBA)
    keys.count("block_count", attributes["num_hidden_layers"], views, r"backbone\.layers\.(\d+)\..*")
    return attributes, views


def _views(header: Header, names: dict[str, tuple[str, str]]) -> Views:
    """The views by the published names: `blk.3.ffn_up.weight` is `ffn_up` of layer 3, which only a layer has."""
    views = Views(header.path)
    for name in header.tensors:
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z0-9_]+)(?:\.(weight|bias))?", name)
        layer, stem, end = found.groups() if found else (None, "", None)
        if end and stem in names:
            theirs, pattern = names[stem]
            published, view = f"{theirs}.{end}", View(name, pattern=pattern if end == "weight" else "")
        elif not end and names is MAMBA and stem in BARE:
            published, negated_exp = BARE[stem]
            view = View(name, negated_exp=negated_exp)
        else:
            raise ValueError(f"{header.path}: tensor {name!r} is unknown in this architecture")
        if (layer is None) == ("{}" in published):
            where = "in a layer, blk.N.*" if layer is None else "outside the layers"
            raise ValueError(f"{header.path}: tensor {name!r} must be {where}")
        views.add(published.format(layer), view)
    return views
