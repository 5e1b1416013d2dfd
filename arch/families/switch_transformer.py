"""Switch Transformer: T5 with the ffn of every other layer replaced by many experts, of which a token has one.

    x <- x + p_i W_down,i relu(W_up,i norm(x)),   i = argmax p,   p = softmax(W_r norm(x))

Fedus, Zoph, Shazeer, Switch Transformers, 2021, arXiv 2101.03961, sec. 2.1-2.4 and table 9; base-8 to base-256 and
large-128 as their released configs. Experts drop what is above their capacity in training (factor 1.25). In evaluation
nothing is dropped here, while the paper has a factor of 2, and transformers a number of tokens (`expert_capacity`, 64)
of each row: both agree on rows, or steps of decoding, in which no expert is the choice of more tokens than that. So
`expert_capacity` is not read, and what is written is one that is never reached.
"""

from arch import config as configs
from arch.families._hyperparameters import confirm
from arch.families._vocabulary import read_activation, write_activation
from arch.families.t5 import PREFIX, duplicates, ignored, mixer_rules
from arch.ffns import mlp, moe
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention, cross_attention
from arch.models import encoder_decoder
from arch.ops.activation import Activation
from arch.positions import relative
from arch.published import Attributes, Rule
from arch.routers import switch

__all__ = ["MODEL_TYPES", "PREFIX", "PRESETS", "compose", "duplicates", "ignored", "read", "rules", "write"]


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    hidden_dim: int,
    num_experts: int,
    step: int = 2,
    decoder_layers: int = 0,
    decoder_step: int = 0,
    vocab_size: int = 32128,
    buckets: int = 32,
    max_distance: int = 128,
    activation: Activation = "relu",
    tie_embeddings: bool = True,
    epsilon: float = 1e-6,
    dropout: float = 0.1,
    jitter: float = 0.01,
    capacity_factor: float = 1.25,
    balance_weight: float = 0.01,
) -> encoder_decoder.Config:
    """The model; layers 1, 1 + step, ... have experts (with step 1 all); the decoder's numbers 0 are the encoder's."""
    rms_norm = norm.Config(kind="rms", epsilon=epsilon)
    widths = {"num_heads": num_heads, "head_dim": head_dim, "scale": 1.0, "dropout": dropout}
    dense = mlp.Config(hidden_dim=hidden_dim, activation=activation)
    experts = moe.Config(
        num_experts=num_experts,
        top_k=1,
        hidden_dim=hidden_dim,
        router=switch.Config(jitter=jitter, capacity_factor=capacity_factor, eval_capacity_factor=num_experts),
        activation=activation,
        gated=False,
        renormalize=False,
        balance_weight=balance_weight,
        z_weight=0.0,
    )

    def layer(i: int, causal: bool, step: int) -> block.Config:
        place = {"buckets": buckets, "max_distance": max_distance, "bidirectional": not causal}
        mixer = attention.Config(
            **widths, causal=causal, position=relative.Config(**place, owner=i == 0, shares=True)
        )
        between = (cross_attention.Config(**widths),) if causal else ()
        ffn = experts if step == 1 or i % step == 1 else dense
        return block.Config(sublayers=(mixer, *between, ffn), norm=rms_norm, dropout=dropout)

    def layers(number: int, causal: bool, step: int) -> stack.Config:
        """The first period, whose first layer owns the bias; the others, repeated; what is left of one."""
        if not 0 < number <= stack.MAX_REPEATS or step < 1:
            raise ValueError(f"num_layers={number} must be from 1 to {stack.MAX_REPEATS}, and step={step} at least 1")
        step = min(step, number)
        blocks = tuple(layer(i, causal, step) for i in range(min(2 * step, number)))
        if number <= step:
            return stack.Config(pattern=blocks)
        repeats, rest = divmod(number - step, step)
        first, period = blocks[:step], blocks[step:]
        return stack.Config(prefix=first, pattern=period, repeats=max(repeats, 1), suffix=period[:rest] * (repeats > 0))

    return encoder_decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        encoder=layers(num_layers, False, step),
        decoder=layers(decoder_layers or num_layers, True, decoder_step or step),
        embedding=embedding.Config(stddev=1.0),
        norm=rms_norm,
        tie_embeddings=tie_embeddings,
        dropout=dropout,
        logit_scale=embed_dim**-0.5 if tie_embeddings else 1.0,
    )


_BASE = dict(embed_dim=768, num_layers=12, num_heads=12, head_dim=64, hidden_dim=3072)

PRESETS = {f"switch_base_{number}": compose(**_BASE, num_experts=number) for number in (8, 16, 32, 64, 128, 256)} | {
    "switch_large_128": compose(
        embed_dim=1024, num_layers=24, num_heads=16, head_dim=64, hidden_dim=4096, num_experts=128
    ),
    # Table 9: 1,571B.
    "switch_c_2048": compose(
        embed_dim=2080, num_layers=15, num_heads=32, head_dim=64, hidden_dim=6144, num_experts=2048, step=1
    ),
}

MODEL_TYPES = ("switch_transformers",)

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("d_model",),
    "num_layers": ("num_layers",),
    "decoder_layers": ("num_decoder_layers", 0),
    "num_heads": ("num_heads",),
    "head_dim": ("d_kv",),
    "hidden_dim": ("d_ff",),
    "num_experts": ("num_experts", 8),
    "buckets": ("relative_attention_num_buckets", 32),
    "max_distance": ("relative_attention_max_distance", 128),
    "epsilon": ("layer_norm_epsilon", 1e-6),
    "dropout": ("dropout_rate", 0.1),
    "jitter": ("router_jitter_noise", 0.01),
    "tie_embeddings": ("tie_word_embeddings", True),
}
"""Their attributes, with defaults, by our hyperparameters."""
NEVER = 2**31 - 1
"""An expert's capacity that no row reaches."""


def read(attributes: Attributes) -> encoder_decoder.Config:
    """Our config from theirs, with the paper's capacity and balance loss in training.

    Raises:
      ValueError: something in it cannot be expressed.
    """
    expected = {"is_encoder_decoder": True, "is_decoder": False, "router_bias": False, "add_cross_attention": False}
    for name, value in expected.items():
        attributes.expect(name, value)
    attributes.expect("feed_forward_proj", "relu")
    attributes.expect("is_gated_act", False)
    attributes.ignore("expert_capacity", "batch_prioritized_routing", "router_ignore_padding_tokens")  # of dropping
    attributes.ignore("router_dtype", "router_type", "num_selected_experts", "add_router_probs", "output_router_logits")
    attributes.ignore("router_z_loss_coef", "router_aux_loss_coef", "n_positions", "output_past", "layer_types")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    for side, ours, layers in (("encoder", "step", "num_layers"), ("decoder", "decoder_step", "decoder_layers")):
        number, sparse = found[layers] or found["num_layers"], attributes.get(f"num_sparse_{side}_layers", 3)
        if not 0 <= sparse <= number:
            raise ValueError(f"num_sparse_{side}_layers={sparse} must be from 0 to {number}")
        found[ours] = number // sparse if sparse else number
        attributes.ignore(f"{side}_sparse_step")  # said twice
    config = compose(**found, activation=read_activation(attributes, "dense_act_fn", "relu"))
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, encoder_decoder.Config):
        raise ValueError(f"model={type(config).__module__} must be an encoder_decoder in this family")
    sides = {"encoder": config.encoder.blocks, "decoder": config.decoder.blocks}
    sparse = {side: [i for i, layer in enumerate(blocks) if "moe" in layer.labels] for side, blocks in sides.items()}
    kinds = {part.label: part for layer in reversed(sides["encoder"]) for part in layer.sublayers}
    first, mixer, ffn = sides["encoder"][0], kinds.get("attention"), kinds.get("moe")
    if not (mixer and ffn and isinstance(ffn.router, switch.Config)):
        raise ValueError("encoder must hold attention, and moe with router='switch', in this family")
    if not isinstance(mixer.position, relative.Config):
        raise ValueError(f"position={mixer.position} must be relative in this family")
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(sides["encoder"]),
        "decoder_layers": len(sides["decoder"]),
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "hidden_dim": ffn.hidden_dim,
        "num_experts": ffn.num_experts,
        "buckets": mixer.position.buckets,
        "max_distance": mixer.position.max_distance,
        "epsilon": first.norm.epsilon,
        "dropout": first.dropout,
        "jitter": ffn.router.jitter,
        "tie_embeddings": config.tie_embeddings,
    }
    steps = {side: _step(side, places, len(sides[side])) for side, places in sparse.items()}
    beside = {"step": steps["encoder"], "decoder_step": steps["decoder"], "activation": ffn.activation}
    confirm(config, compose(**found, **beside, capacity_factor=ffn.router.capacity_factor))
    out = {"architectures": ["SwitchTransformersForConditionalGeneration"], "model_type": "switch_transformers"}
    out |= {"is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    out |= {f"num_sparse_{side}_layers": len(sides[side]) // step for side, step in steps.items()}
    return out | {"dense_act_fn": write_activation(ffn.activation), "expert_capacity": NEVER}


def _step(side: str, sparse: list[int], number: int) -> int:
    """The step between the layers with experts. Raises ValueError where their number of such layers cannot tell it."""
    step = 1 if sparse[:1] == [0] else sparse[1] - sparse[0] if len(sparse) > 1 else number
    if number // (number // step) != step:
        raise ValueError(f"{side} has a layer of experts in {step} of {number}, which no number of such layers tells")
    return step


def rules(config: encoder_decoder.Config) -> list[Rule]:
    """One rule a tensor, and one for each of the experts' two matrices, which have a tensor an expert."""
    out = [Rule("embedding/table", "shared.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for side, layers in (("encoder", config.encoder), ("decoder", config.decoder)):
        out.append(Rule(f"{side}/norm/scale", f"{side}.final_layer_norm.weight"))
        for i, layer in enumerate(layers.blocks):
            for j, (label, sublayer) in enumerate(zip(layer.labels, layer.sublayers)):
                ours, theirs = f"{side}/layers/{i}/{label}", f"{side}.block.{i}.layer.{j}"
                out.append(Rule(f"{ours}_norm/scale", f"{theirs}.layer_norm.weight"))
                is_ffn = label in ("mlp", "moe")
                out += (_ffn_rules(sublayer, ours, f"{theirs}.mlp") if is_ffn else mixer_rules(sublayer, ours, theirs))
    return out


def _ffn_rules(ffn: mlp.Config | moe.Config, ours: str, theirs: str) -> list[Rule]:
    names = (("up", "wi"), ("down", "wo"))
    if ffn.label == "mlp":
        return [Rule(f"{ours}/{name}", f"{theirs}.{wi}.weight", "o i -> i o") for name, wi in names]
    out = [Rule(f"{ours}/router", f"{theirs}.router.classifier.weight", "e d -> d e")]
    for name, wi in names:
        each = [f"{theirs}.experts.expert_{e}.{wi}.weight" for e in range(ffn.num_experts)]
        out.append(Rule(f"{ours}/{name}", each, "e o i -> e i o"))
    return out
