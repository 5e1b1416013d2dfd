"""What BERT and RoBERTa share: the body's attributes and tensors, and heads by the name of their architecture."""

from arch import config as configs
from arch.families._hyperparameters import sublayers
from arch.families._rules import linear, norm_rules
from arch.families._vocabulary import read_activation, write_activation
from arch.ffns import mlp
from arch.heads import classification, masked_lm, pooler, pretraining, span, tagging
from arch.layers import norm
from arch.mixers import attention
from arch.models import encoder
from arch.ops.activation import Activation
from arch.positions import learned
from arch.published import Attributes, Rule

HEADS = {
    "Model": pooler.Config,
    "ForPreTraining": pretraining.Config,
    "ForMaskedLM": masked_lm.Config,
    "ForSequenceClassification": classification.Config,
    "ForTokenClassification": tagging.Config,
    "ForQuestionAnswering": span.Config,
}
"""Our heads by the end of their architecture's name; RoBERTa has none for two tasks."""

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "hidden_dim": ("intermediate_size", 3072),
    "length": ("max_position_embeddings", 512),
    "token_types": ("type_vocab_size", 2),
    "epsilon": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read_body(attributes: Attributes) -> dict:
    """The hyperparameters but the head. Raises ValueError on what we cannot express."""
    attributes.expect("position_embedding_type", "absolute")
    attributes.expect("tie_word_embeddings", True)
    attributes.expect("pruned_heads", {}, None)
    for name in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        attributes.expect(name, False)
    attributes.ignore("output_past")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    return found | {"activation": read_activation(attributes, "hidden_act", "gelu")}


def body(config: configs.Config, mixer: type = attention.Config) -> dict:
    """The hyperparameters but the head, from a config whose layers have this mixer. Raises ValueError on others."""
    mixer, ffn = sublayers(config, encoder.Config, mixer, mlp.Config)
    if not isinstance(config.position, learned.Config):
        raise ValueError(f"position={config.position} must be learned in this family")
    layer = config.layers.blocks[0]
    return {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": ffn.hidden_dim,
        "length": config.position.length,
        "token_types": config.token_types,
        "epsilon": layer.norm.epsilon,
        "dropout": layer.dropout,
        "attention_dropout": getattr(mixer, "dropout", 0.0),
        "activation": ffn.activation,
    }


def write_body(found: dict) -> dict:
    """Their attributes of these hyperparameters."""
    out = {theirs[0]: found[ours] for ours, theirs in NAMES.items()}
    return out | {"hidden_act": write_activation(found["activation"])}


def read_head(attributes: Attributes, start: str, ends: tuple[str, ...], **of_tokens) -> configs.Config:
    """The head that `architectures` names.

    Args:
      attributes: of the model.
      start: how all architectures of the family begin.
      ends: the keys of `HEADS` that it has.
      **of_tokens: as in `with_tokens`.

    Raises:
      ValueError: we have none for it.
    """
    name = attributes.get("architectures", [f"{start}Model"])[0]
    end = name.removeprefix(start)
    if not name.startswith(start) or end not in ends:
        raise ValueError(f"architectures={name!r} must be one of {', '.join(start + end for end in ends)}")
    labels = len(attributes.get("id2label", (0, 1)))
    rate = attributes.get("classifier_dropout", attributes.get("hidden_dropout_prob", 0.1))
    labelled = {"num_labels": labels, "dropout": rate} if HEADS[end] in (classification.Config, tagging.Config) else {}
    return with_tokens(HEADS[end](**labelled), **of_tokens)


def with_tokens(
    head: configs.Config, *, activation: Activation, epsilon: float, classifier: Activation = "tanh"
) -> configs.Config:
    """The head, its part for masked tokens with this activation and this norm, or that for classes with its own."""
    if isinstance(head, classification.Config):
        return head.replace(activation=classifier)
    if isinstance(head, pooler.Config):
        return head.replace(activation="tanh")
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    if isinstance(head, masked_lm.Config):
        return head.replace(activation=activation, norm=layer_norm)
    if isinstance(head, pretraining.Config):
        return head.replace(tokens=head.tokens.replace(activation=activation, norm=layer_norm))
    return head


def write_head(head: configs.Config, start: str, ends: tuple[str, ...]) -> dict:
    """Their attributes of a head. Raises ValueError when they have none for it."""
    kinds = {HEADS[end]: end for end in ends}
    if type(head) not in kinds:
        name, *known = (kind.__module__.rsplit(".", 1)[-1] for kind in (type(head), *kinds))
        raise ValueError(f"head={name!r} must be one of {', '.join(known)} in this family")
    out = {"architectures": [start + kinds[type(head)]]}
    if isinstance(head, (classification.Config, tagging.Config)):
        labels = [f"LABEL_{i}" for i in range(head.num_labels)]
        out["id2label"] = {str(i): label for i, label in enumerate(labels)}
        out["label2id"] = {label: i for i, label in enumerate(labels)}
        out["classifier_dropout"] = head.dropout
    return out


def body_rules(config: encoder.Config, prefix: str) -> list[Rule]:
    """One rule a tensor of all but the head; theirs start with `prefix`."""
    embeddings = f"{prefix}.embeddings"
    out = [
        Rule("embedding/table", f"{embeddings}.word_embeddings.weight"),
        Rule("position/table", f"{embeddings}.position_embeddings.weight"),
        Rule("token_types", f"{embeddings}.token_type_embeddings.weight"),
        *norm_rules("embedding_norm", f"{embeddings}.LayerNorm"),
    ]
    for i, layer in enumerate(config.layers.blocks):
        n = layer.sublayers[0].num_heads
        ours, theirs = f"layers/{i}", f"{prefix}.encoder.layer.{i}"
        mixer, result = f"{ours}/{layer.labels[0]}", f"{theirs}.attention.output"
        for name in ("query", "key", "value"):
            projection = f"{theirs}.attention.self.{name}"
            out.append(Rule(f"{mixer}/{name}", f"{projection}.weight", "(n h) d -> d n h", n=n))
            out.append(Rule(f"{mixer}/{name}_bias", f"{projection}.bias", "(n h) -> n h", n=n))
        out.append(Rule(f"{mixer}/out", f"{result}.dense.weight", "d (n h) -> n h d", n=n))
        out.append(Rule(f"{mixer}/out_bias", f"{result}.dense.bias"))
        out += norm_rules(f"{mixer}_norm", f"{result}.LayerNorm")
        out += linear(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", bias=True)
        out += linear(f"{ours}/mlp/down", f"{theirs}.output.dense", bias=True)
        out += norm_rules(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm")
    return out
