"""DeepSeek-V2 and V3: latent attention, then many small experts of which a token has a few, and some that all have.

    x <- x + latent_attention(norm(x));   x <- x + shared(norm(x)) + sum_{i chosen} w_i swiglu_i(norm(x))

DeepSeek-AI, DeepSeek-V2, 2024, arXiv 2405.04434, sec. 2 and 3.1.2, app. B for V2-Lite; DeepSeek-V3 Technical Report,
2024, arXiv 2412.19437, sec. 2.1 and 4.2. The first layers are dense. V2 weighs by a softmax, V3 by sigmoids that sum to
a scale, chosen by a bias that balances the load. The presets have the reports' losses of an expert's load by sequence
(V2-Lite app. B, V2 sec. 3.1.2, V3 sec. 4.2), without V2's two of a device's; what is read has none. What the report
calls multi-token prediction is no part of the model here: its tensors, a layer behind the last, are not read. The
released V3 is quantised in blocks of float8, which is refused; its bfloat16 conversions are read.
"""

from arch import config as configs
from arch.families._hyperparameters import confirm, sublayers
from arch.families._latent import latent_rules, read_position, temperature, write_position
from arch.families._mixtures import dense_rules, moe_rules
from arch.families._vocabulary import read_activation, write_activation
from arch.families.llama import PREFIX, around, duplicates
from arch.ffns import gated_mlp, moe
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import latent_attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import rope, rope_yarn
from arch.published import Attributes, Rule
from arch.routers import sigmoid, top_k

__all__ = ["MODEL_TYPES", "PREFIX", "PRESETS", "compose", "duplicates", "ignored", "read", "rules", "write"]


def compose(
    *,
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    expert_dim: int,
    num_experts: int,
    num_shared: int,
    top_k: int,
    dense_layers: int,
    router: top_k.Config | sigmoid.Config = top_k.Config(),
    renormalize: bool = False,
    bias_rate: float = 0.0,
    latent_dim: int = 512,
    query_latent_dim: int = 0,
    head_dim: int = 128,
    rope_dim: int = 64,
    value_dim: int = 128,
    position: Position = rope.Config(pairing="interleaved"),
    scale: float = 0.0,
    epsilon: float = 1e-6,
    activation: Activation = "silu",
    attention_dropout: float = 0.0,
    balance_weight: float = 0.0,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; a token has `top_k` experts of width `expert_dim` and `num_shared` besides, behind `dense_layers`."""
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = latent_attention.Config(
        num_heads=num_heads,
        latent_dim=latent_dim,
        query_latent_dim=query_latent_dim,
        head_dim=head_dim,
        rope_dim=rope_dim,
        value_dim=value_dim,
        position=position,
        scale=scale,
        dropout=attention_dropout,
    )
    experts = moe.Config(
        num_experts=num_experts,
        top_k=top_k,
        hidden_dim=expert_dim,
        router=router,
        shared_dim=num_shared * expert_dim,
        activation=activation,
        renormalize=renormalize,
        balance_weight=balance_weight,
        z_weight=0.0,
        bias_rate=bias_rate,
    )
    if not 0 <= dense_layers < min(num_layers, stack.MAX_REPEATS):
        below = f"num_layers={num_layers} and {stack.MAX_REPEATS}"
        raise ValueError(f"dense_layers={dense_layers} must be at least 0 and below {below}")
    dense = gated_mlp.Config(hidden_dim=hidden_dim, activation=activation)
    first, later = (block.Config(sublayers=(mixer, ffn), norm=rms) for ffn in (dense, experts))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(prefix=(first,) * dense_layers, pattern=(later,), repeats=num_layers - dense_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


def _long(share: float) -> dict:
    """Rows 40 times as long as 4096 tokens (V2's sec. 3.1.4; the share is `mscale` of the released configs)."""
    position = rope_yarn.Config(factor=40.0, original_length=4096, amplitude=1.0, pairing="interleaved")
    return {"position": position, "scale": temperature(128 + 64, 40.0, share)}


_V2 = {"vocab_size": 102400, "num_shared": 2, "top_k": 6, "dense_layers": 1, **_long(0.707)}

PRESETS = {
    # V2, app. B and sec. 3.1.2; V3, sec. 4.2, with the balancing of its sec. 2.1.2.
    "deepseek_v2_lite": compose(
        **_V2, embed_dim=2048, num_layers=27, num_heads=16, hidden_dim=10944, expert_dim=1408, num_experts=64,
        balance_weight=0.001,
    ),
    "deepseek_v2": compose(
        **_V2, embed_dim=5120, num_layers=60, num_heads=128, hidden_dim=12288, expert_dim=1536, num_experts=160,
        query_latent_dim=1536, router=top_k.Config(num_groups=8, top_groups=3, scale=16.0),
        balance_weight=0.003,
    ),
    "deepseek_v3": compose(
        vocab_size=129280, embed_dim=7168, num_layers=61, num_heads=128, hidden_dim=18432, expert_dim=2048,
        num_experts=256, num_shared=1, top_k=8, dense_layers=3, query_latent_dim=1536, renormalize=True,
        bias_rate=0.001, balance_weight=0.0001, router=sigmoid.Config(num_groups=8, top_groups=4, scale=2.5),
        **_long(1.0),
    ),
}  # fmt: skip

MODEL_TYPES = ("deepseek_v2", "deepseek_v3")

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "hidden_dim": ("intermediate_size",),
    "expert_dim": ("moe_intermediate_size",),
    "num_experts": ("n_routed_experts",),
    "num_shared": ("n_shared_experts",),
    "top_k": ("num_experts_per_tok",),
    "dense_layers": ("first_k_dense_replace",),
    "latent_dim": ("kv_lora_rank",),
    "head_dim": ("qk_nope_head_dim",),
    "rope_dim": ("qk_rope_head_dim",),
    "value_dim": ("v_head_dim",),
    "epsilon": ("rms_norm_eps", 1e-6),
    "attention_dropout": ("attention_dropout", 0.0),
    "tie_embeddings": ("tie_word_embeddings", False),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs, with V3's balancing bias and without any loss of the router's.

    Raises:
      ValueError: something in it cannot be expressed.
    """
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    attributes.expect("num_key_value_heads", found["num_heads"], None)
    for name, value in {"attention_bias": False, "mlp_bias": False, "moe_layer_freq": 1}.items():
        attributes.expect(name, value)
    attributes.ignore("head_dim", "qk_head_dim")  # of the channels that turn, and of all: said twice
    attributes.ignore("aux_loss_alpha", "seq_aux", "output_router_logits", "router_aux_loss_coef")  # losses
    attributes.ignore("pretraining_tp", "ep_size", "auto_map", "num_nextn_predict_layers", "num_mtp_layers")
    third = attributes.get("model_type") == "deepseek_v3"
    interleaved = attributes.get("rope_interleave", True) if third else True
    found |= read_position(attributes, found["head_dim"] + found["rope_dim"], interleaved)
    found |= {"query_latent_dim": attributes.get("q_lora_rank", 1536, null=0)}
    found |= (_read_sigmoid if third else _read_softmax)(attributes, found)
    config = compose(**found, activation=read_activation(attributes, "hidden_act", "silu"))
    attributes.finish()
    return config


def _read_softmax(attributes, found):
    attributes.expect("scoring_func", "softmax")
    attributes.expect("norm_topk_prob", False)
    method = attributes.get("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise ValueError(f"topk_method={method!r} must be greedy or group_limited_greedy")
    groups = {"num_groups": attributes.get("n_group", 1), "top_groups": attributes.get("topk_group", 1)}
    groups = groups if method == "group_limited_greedy" else {}
    return {"router": top_k.Config(**groups, scale=attributes.get("routed_scaling_factor", 1.0))}


def _read_sigmoid(attributes, found):
    attributes.expect("scoring_func", "sigmoid")
    attributes.expect("topk_method", "noaux_tc")
    groups = {"num_groups": attributes.get("n_group", 8), "top_groups": attributes.get("topk_group", 4)}
    router = sigmoid.Config(**groups, scale=attributes.get("routed_scaling_factor", 2.5))
    _two_must_speak(router, found["top_k"])
    return {"router": router, "renormalize": attributes.get("norm_topk_prob", True), "bias_rate": 0.001}


def _two_must_speak(router, k):
    """Raises ValueError where k / top_groups experts speak for a group: in the released code it is always two."""
    if router.num_groups != router.top_groups and k != 2 * router.top_groups:
        raise ValueError(f"top_k={k} must be 2 * top_groups={router.top_groups} in this family: two speak for a group")


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, latent_attention.Config, moe.Config, layer=-1)
    dense = [layer.sublayers[-1] for layer in config.layers.blocks if layer.labels[-1] == "gated_mlp"]
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": (dense or [ffn])[0].hidden_dim,
        "expert_dim": ffn.hidden_dim,
        "num_experts": ffn.num_experts,
        "num_shared": ffn.shared_dim // ffn.hidden_dim,
        "top_k": ffn.top_k,
        "dense_layers": len(dense),
        "latent_dim": mixer.latent_dim,
        "head_dim": mixer.head_dim,
        "rope_dim": mixer.rope_dim,
        "value_dim": mixer.value_dim,
        "epsilon": config.layers.blocks[0].norm.epsilon,
        "attention_dropout": mixer.dropout,
        "tie_embeddings": config.tie_embeddings,
    }
    third = isinstance(ffn.router, sigmoid.Config)
    interleaved = getattr(mixer.position, "pairing", "") == "interleaved"
    beside, routing = (_write_sigmoid if third else _write_softmax)(ffn)
    if third:
        routing |= {"rope_interleave": interleaved}
    elif not interleaved:
        raise ValueError("pairing='halves' must be 'interleaved' in this family with router='top_k'")
    beside |= {"query_latent_dim": mixer.query_latent_dim, "position": mixer.position, "scale": mixer.scale}
    confirm(config, compose(**found, **beside, activation=ffn.activation))
    version = "3" if third else "2"
    out = {"architectures": [f"DeepseekV{version}ForCausalLM"], "model_type": f"deepseek_v{version}"}
    out |= {NAMES[ours][0]: value for ours, value in found.items()} | write_position(mixer) | routing
    out |= {"num_key_value_heads": mixer.num_heads, "q_lora_rank": mixer.query_latent_dim or None}
    return out | {"hidden_act": write_activation(ffn.activation)}


def _write_softmax(ffn: moe.Config) -> tuple[dict, dict]:
    if not isinstance(ffn.router, top_k.Config):
        raise ValueError("router must be top_k or sigmoid in this family")
    router = top_k.Config(num_groups=ffn.router.num_groups, top_groups=ffn.router.top_groups, scale=ffn.router.scale)
    out = {"topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": router.scale}
    if router.num_groups != 1:
        out |= {"topk_method": "group_limited_greedy", "n_group": router.num_groups, "topk_group": router.top_groups}
    return {"router": router}, out


def _write_sigmoid(ffn: moe.Config) -> tuple[dict, dict]:
    _two_must_speak(ffn.router, ffn.top_k)
    if not ffn.bias_rate:
        raise ValueError("bias_rate=0.0 must be positive in this family with a sigmoid router: it has a balancing bias")
    out = {"n_group": ffn.router.num_groups, "topk_group": ffn.router.top_groups, "norm_topk_prob": ffn.renormalize}
    out |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "routed_scaling_factor": ffn.router.scale}
    return {"router": ffn.router, "renormalize": ffn.renormalize, "bias_rate": ffn.bias_rate}, out


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor, and one for each of the experts' three matrices, which have a tensor an expert."""
    out = around(config)
    for i, layer in enumerate(config.layers.blocks):
        mixer, ffn = layer.sublayers
        out += latent_rules(i, mixer)
        out += moe_rules(i, ffn) if isinstance(ffn, moe.Config) else dense_rules(i)
        if isinstance(ffn, moe.Config) and ffn.bias_rate:
            out.append(Rule(f"layers/{i}/moe/router_bias", f"model.layers.{i}.mlp.gate.e_score_correction_bias"))
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Frequencies that older files hold, and the modules that predict further tokens, behind the last layer."""
    frequencies = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    return frequencies, rf"model\.layers\.{len(config.layers.blocks)}\..*"
