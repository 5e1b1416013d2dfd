"""BERT: an encoder with post-norm blocks, learned positions, token types, and a pooled first token.

    x_0 = LayerNorm(W_e[token] + W_p[position] + W_t[type]);   x <- LayerNorm(x + f(x)),  f = attention, then mlp

Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2018, arXiv 1810.04805.
MiniLM (Wang et al., 2020, arXiv 2002.10957), the body of many sentence encoders, is the same model, distilled.
"""

from arch import config as configs
from arch.families._bert_like import (
    HEADS,
    body,
    body_rules,
    read_body,
    read_head,
    with_tokens,
    write_body,
    write_head,
)
from arch.families._hyperparameters import channels_a_head, confirm
from arch.families._rules import linear, norm_rules
from arch.ffns import mlp
from arch.heads import classification, masked_lm, pooler, pretraining, span, tagging
from arch.layers import block, norm, stack
from arch.mixers import attention
from arch.models import encoder
from arch.ops.activation import Activation
from arch.positions import learned, none
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int = 0,
    vocab_size: int = 30522,
    length: int = 512,
    offset: int = 0,
    token_types: int = 2,
    activation: Activation = "gelu",
    epsilon: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    head: configs.Config = pooler.Config(),
) -> encoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim, `length` counts the rows of the position table."""
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        causal=False,
        position=none.Config(),
        bias="all",
        dropout=attention_dropout,
    )
    ffn = mlp.Config(hidden_dim=hidden_dim or 4 * embed_dim, activation=activation, bias=True)
    layer = block.Config(sublayers=(mixer, ffn), norm=layer_norm, placement="post", dropout=dropout)
    return encoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        position=learned.Config(length=length, offset=offset),
        token_types=token_types,
        embedding_norm=True,
        norm=layer_norm,
        final_norm=False,
        dropout=dropout,
        head=head,
    )


PRESETS = {
    # Sec. 3: L, H and A; 110M and 340M parameters are printed, 109,482,240 and 335,141,888 counted, with the pooler.
    "bert_base": compose(num_layers=12, embed_dim=768, num_heads=12),
    "bert_large": compose(num_layers=24, embed_dim=1024, num_heads=16),
    # The released all-MiniLM-L6-v2, 22,713,216 parameters.
    "minilm_l6": compose(num_layers=6, embed_dim=384, num_heads=12),
}

MODEL_TYPES = ("bert",)
PREFIX = "bert."
OLDER = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}


def read(attributes: Attributes) -> encoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.ignore("directionality", "pooler_type", "pooler_fc_size", "pooler_size_per_head")
    attributes.ignore("pooler_num_attention_heads", "pooler_num_fc_layers")
    found = read_body(attributes)
    head = read_head(attributes, "Bert", tuple(HEADS), activation=found["activation"], epsilon=found["epsilon"])
    attributes.finish()
    return compose(**found, head=head)


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    found = body(config)
    out = {"model_type": "bert"} | write_body(found) | write_head(config.head, "Bert", tuple(HEADS))
    head = with_tokens(config.head, activation=found["activation"], epsilon=found["epsilon"])
    confirm(config, compose(**found, head=head))
    return out


def rules(config: encoder.Config) -> list[Rule]:
    """One rule a tensor."""
    return body_rules(config, "bert") + head_rules(config.head, "bert.pooler.dense")


def head_rules(head: configs.Config, pooled: str) -> list[Rule]:
    """One rule a tensor of the head, its pooler of this name."""
    out = []
    if isinstance(head, pooler.Config):
        out += linear("head/dense", pooled, bias=True)
    if isinstance(head, (pretraining.Config, classification.Config)):
        out += linear("head/pooler/dense", pooled, bias=True)
    if isinstance(head, (pretraining.Config, masked_lm.Config)):
        ours = "head" if isinstance(head, masked_lm.Config) else "head/masked_lm"
        out += linear(f"{ours}/dense", "cls.predictions.transform.dense", bias=True)
        out += norm_rules(f"{ours}/norm", "cls.predictions.transform.LayerNorm")
        out.append(Rule(f"{ours}/output_bias", "cls.predictions.bias"))
    if isinstance(head, pretraining.Config):
        out += linear("head/next_sentence", "cls.seq_relationship", bias=True)
    if isinstance(head, (classification.Config, tagging.Config)):
        out += linear("head/output", "classifier", bias=True)
    if isinstance(head, span.Config):
        out += linear("head/output", "qa_outputs", bias=True)
    return out


def ignored(config: encoder.Config) -> tuple[str, ...]:
    """The numbers of the positions, and what BERT's checkpoints hold of heads that are left out."""
    out = [r"bert\.embeddings\.position_ids"]
    if isinstance(config.head, (masked_lm.Config, tagging.Config, span.Config)):
        out.append(r"bert\.pooler\.dense\.(weight|bias)")
    if isinstance(config.head, masked_lm.Config):
        out.append(r"cls\.seq_relationship\.(weight|bias)")
    return tuple(out)


def duplicates(config: encoder.Config) -> dict[str, str]:
    """The table and the bias of the masked tokens' logits, again."""
    decoder, table = "cls.predictions.decoder", "bert.embeddings.word_embeddings.weight"
    masked = isinstance(config.head, (pretraining.Config, masked_lm.Config))
    return {f"{decoder}.weight": table, f"{decoder}.bias": "cls.predictions.bias"} if masked else {}
