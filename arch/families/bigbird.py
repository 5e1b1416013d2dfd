"""BigBird: BERT for rows of 4096 tokens, whose blocks see their neighbours, both ends of the row and a few random ones.

    x <- LayerNorm(x + f(x)),  f = bigbird_attention, then mlp;  blocks of 64 tokens, 3 random ones a layer and head

Zaheer et al., Big Bird: Transformers for Longer Sequences, 2020, arXiv 2007.14062: BigBird-ITC, the released one.
(The ETC variant, with global tokens beside the text, is `arch/families/etc.py`.) A model that is imported computes what
transformers does, where random blocks are drawn in training only: `evaluation='first'` of
`arch.mixers.bigbird_attention`. The presets keep them, as the paper does. Dropout of attention weights is left out.
"""

from typing import Any, Literal

from arch import config as configs
from arch.families import bert, roberta
from arch.families._bert_like import body, body_rules, read_body, read_head, with_tokens, write_body, write_head
from arch.families._hyperparameters import confirm
from arch.families._vocabulary import read_activation
from arch.heads import classification, masked_lm, pooler, pretraining
from arch.layers import block, embedding, stack
from arch.mixers import attention, bigbird_attention
from arch.models import encoder
from arch.published import Attributes, Rule


def compose(
    *,
    num_layers: int,
    blocks: Literal["sparse", "full"] = "sparse",
    block_size: int = 64,
    random: int = 3,
    evaluation: Literal["drawn", "first"] = "drawn",
    scaled_embedding: bool = False,
    vocab_size: int = 50358,
    length: int = 4096,
    activation: str = "gelu_tanh",
    **others: Any,
) -> encoder.Config:
    """The model; `scaled_embedding` multiplies embedded tokens by sqrt(embed_dim), `others` are as in `bert.compose`.

    Args:
      num_layers: layers.
      blocks: 'sparse', or 'full' for all pairs whatever the length, without blocks.
      block_size: tokens of a block.
      random: blocks drawn for each block of queries.
      evaluation: see `arch.mixers.bigbird_attention`.
      scaled_embedding: see above.
      vocab_size: ids.
      length: rows of the position table.
      activation: of the mlp and of the head for masked tokens.
      **others: see above.
    """
    sizes = {"vocab_size": vocab_size, "length": length, "num_layers": num_layers, "activation": activation}
    plain = bert.compose(**sizes, **others)
    plain = plain.replace(embedding=embedding.Config(scale=0.0 if scaled_embedding else 1.0))
    if blocks == "full":
        return plain
    layer = plain.layers.blocks[0]
    heads, ffn = layer.sublayers
    mixer = bigbird_attention.Config(
        num_heads=heads.num_heads,
        head_dim=heads.head_dim,
        block_size=block_size,
        random=random,
        longest=length,
        evaluation=evaluation,
        bias=True,
    )
    return plain.replace(layers=seeded(layer.replace(sublayers=(mixer, ffn)), num_layers))


def seeded(layer: block.Config, num_layers: int) -> stack.Config:
    """So many of the layer, in each of which bigbird_attention draws with the layer's number."""
    mixer, *others = layer.sublayers
    layers = (layer.replace(sublayers=(mixer.replace(seed=i), *others)) for i in range(num_layers))
    return stack.Config(pattern=tuple(layers))


PRESETS = {
    # The released code's base_size.sh and large_size.sh; bigbird-roberta-base and -large. The paper prints no number of
    # parameters; with the pooler 127,468,800 and 359,123,968 are counted.
    "bigbird_base": compose(num_layers=12, embed_dim=768, num_heads=12),
    "bigbird_large": compose(num_layers=24, embed_dim=1024, num_heads=16),
}

MODEL_TYPES = ("big_bird",)
PREFIX = "bert."
SPECIALISES = "bert"
HEADS = ("Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
TYPES = {"block_sparse": "sparse", "original_full": "full"}
"""Our word by their `attention_type`."""


def read(attributes: Attributes) -> encoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("use_bias", True)
    found = (
        read_body(attributes)
        | {
            "length": attributes.get("max_position_embeddings", 4096),
            "activation": read_activation(attributes, "hidden_act", "gelu_new"),
            "scaled_embedding": attributes.get("rescale_embeddings", False),
        }
        | read_blocks(attributes)
    )
    head = read_head(attributes, "BigBird", HEADS, **_of_head(found))
    attributes.finish()
    return compose(**found, head=head)


def read_blocks(attributes: Attributes) -> dict:
    """The hyperparameters of the blocks. Raises ValueError on what we cannot express."""
    kind = attributes.get("attention_type", "block_sparse")
    if kind not in TYPES:
        raise ValueError(f"attention_type={kind!r} must be one of {', '.join(TYPES)}")
    sizes = {"block_size": attributes.get("block_size", 64), "random": attributes.get("num_random_blocks", 3)}
    return sizes | {"blocks": TYPES[kind], "evaluation": "first"}


def write_blocks(mixer: configs.Config) -> tuple[dict, dict]:
    """The same from a layer's mixer, which is attention where there are no blocks, and their attributes of them."""
    if isinstance(mixer, attention.Config):
        return {"blocks": "full"}, {"attention_type": "original_full"}
    theirs = {"attention_type": "block_sparse", "block_size": mixer.block_size, "num_random_blocks": mixer.random}
    return {"block_size": mixer.block_size, "random": mixer.random, "evaluation": "first"}, theirs


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    full = isinstance(config, encoder.Config) and isinstance(config.layers.blocks[0].sublayers[0], attention.Config)
    found = body(config, attention.Config if full else bigbird_attention.Config)
    scaled, head = config.embedding.scale == 0.0, with_tokens(config.head, **_of_head(found))
    sparse, theirs = write_blocks(config.layers.blocks[0].sublayers[0])
    confirm(config, compose(**found, **sparse, scaled_embedding=scaled, head=head))
    out = {"model_type": "big_bird", "rescale_embeddings": scaled} | theirs
    return out | write_body(found) | write_head(config.head, "BigBird", HEADS)


def _of_head(found: dict) -> dict:
    """What heads have of the layers."""
    return {"activation": found["activation"], "epsilon": found["epsilon"], "classifier": found["activation"]}


def rules(config: encoder.Config) -> list[Rule]:
    """One rule a tensor. The head for classes has RoBERTa's names, the others BERT's."""
    classes = isinstance(config.head, classification.Config)
    of_head = roberta.head_rules(config.head, "bert") if classes else bert.head_rules(config.head, "bert.pooler")
    return body_rules(config, "bert") + of_head


def ignored(config: encoder.Config) -> tuple[str, ...]:
    """The numbers of the positions, and what checkpoints hold of heads that are left out."""
    out = [r"bert\.embeddings\.(position_ids|token_type_ids)"]
    if not isinstance(config.head, (pooler.Config, pretraining.Config)):
        out.append(r"bert\.pooler\.(weight|bias)")
    if isinstance(config.head, masked_lm.Config):
        out.append(r"cls\.seq_relationship\.(weight|bias)")
    return tuple(out)


duplicates = bert.duplicates
"""The table and the bias of the masked tokens' logits, again."""
