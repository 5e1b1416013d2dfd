"""RoBERTa: BERT trained longer on more text, on masked tokens alone, with another vocabulary and no second sentence.

Liu et al., RoBERTa: A Robustly Optimized BERT Pretraining Approach, 2019, arXiv 1907.11692. XLM-RoBERTa (Conneau et
al., 2019, arXiv 1911.02116) is the same model with 250,002 ids. Positions count from row 2 of the table: rows 0 and 1
are left over from its released code, which numbers positions like ids, behind that of padding.
"""

from typing import Any

from arch import config as configs
from arch.families import bert
from arch.families._bert_like import body, body_rules, read_body, read_head, with_tokens, write_body, write_head
from arch.families._hyperparameters import confirm
from arch.families._rules import linear, norm_rules
from arch.heads import classification, masked_lm, pooler, span, tagging
from arch.models import encoder
from arch.published import Attributes, Rule

PADDING = 1
"""The id of padding."""


def compose(
    *, vocab_size: int = 50265, length: int = 514, token_types: int = 1, epsilon: float = 1e-5, **others: Any
) -> encoder.Config:
    """The model; `length` counts the rows of the position table, `others` are as in `bert.compose`."""
    sizes = {"vocab_size": vocab_size, "length": length, "token_types": token_types}
    return bert.compose(**sizes, offset=PADDING + 1, epsilon=epsilon, **others)


PRESETS = {
    # Table 9: L, H and A; 355M parameters are printed for the large one (sec. 5). With the pooler, 124,645,632 and
    # 355,359,744 are counted.
    "roberta_base": compose(num_layers=12, embed_dim=768, num_heads=12),
    "roberta_large": compose(num_layers=24, embed_dim=1024, num_heads=16),
    # XLM-R, sec. 4: 270M and 550M are printed, 278,043,648 and 559,890,432 counted.
    "xlm_roberta_base": compose(num_layers=12, embed_dim=768, num_heads=12, vocab_size=250002),
    "xlm_roberta_large": compose(num_layers=24, embed_dim=1024, num_heads=16, vocab_size=250002),
}

MODEL_TYPES = ("roberta", "xlm-roberta")
PREFIX = "roberta."
HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def read(attributes: Attributes) -> encoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("pad_token_id", PADDING)
    start = "XLMRoberta" if attributes.get("model_type") == "xlm-roberta" else "Roberta"
    found = read_body(attributes)
    head = read_head(attributes, start, HEADS, activation="gelu", epsilon=found["epsilon"])
    attributes.finish()
    return compose(**found, head=head)


def write(config: configs.Config) -> dict:
    """Their config.json from ours, always as 'roberta'. Raises ValueError on what it cannot express."""
    found = body(config)
    out = {"model_type": "roberta", "pad_token_id": PADDING, "bos_token_id": 0, "eos_token_id": 2}
    out |= write_body(found) | write_head(config.head, "Roberta", HEADS)
    head = with_tokens(config.head, activation="gelu", epsilon=found["epsilon"])
    confirm(config, compose(**found, head=head))
    return out


def rules(config: encoder.Config) -> list[Rule]:
    """One rule a tensor."""
    return body_rules(config, "roberta") + head_rules(config.head, "roberta")


def head_rules(head: configs.Config, prefix: str) -> list[Rule]:
    """One rule a tensor of the head; those of its body start with `prefix`."""
    out = []
    if isinstance(head, pooler.Config):
        out += linear("head/dense", f"{prefix}.pooler.dense", bias=True)
    if isinstance(head, masked_lm.Config):
        out += linear("head/dense", "lm_head.dense", bias=True) + norm_rules("head/norm", "lm_head.layer_norm")
        out.append(Rule("head/output_bias", "lm_head.bias"))
    if isinstance(head, classification.Config):
        out += linear("head/pooler/dense", "classifier.dense", bias=True)
        out += linear("head/output", "classifier.out_proj", bias=True)
    if isinstance(head, tagging.Config):
        out += linear("head/output", "classifier", bias=True)
    if isinstance(head, span.Config):
        out += linear("head/output", "qa_outputs", bias=True)
    return out


def ignored(config: encoder.Config) -> tuple[str, ...]:
    """The numbers of the positions, and the pooler that older files hold of heads without one."""
    out = (r"roberta\.embeddings\.position_ids",)
    return out if isinstance(config.head, pooler.Config) else (*out, r"roberta\.pooler\.dense\.(weight|bias)")


def duplicates(config: encoder.Config) -> dict[str, str]:
    """The table and the bias of the masked tokens' logits, again."""
    decoder, table = "lm_head.decoder", "roberta.embeddings.word_embeddings.weight"
    masked = isinstance(config.head, masked_lm.Config)
    return {f"{decoder}.weight": table, f"{decoder}.bias": "lm_head.bias"} if masked else {}
