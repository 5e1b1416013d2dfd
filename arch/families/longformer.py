"""Longformer: RoBERTa whose tokens see a window each, and a few global tokens that see all and are seen by all.

    x <- LayerNorm(x + f(x)),  f = longformer_attention, then mlp;  a window of its own in each layer, 4096 positions

Beltagy, Peters, Cohan, Longformer: The Long-Document Transformer, 2020, arXiv 2004.05150. The released models have one
window of 512 in all layers and no dilation. `Context.globals` chooses the global tokens; in a model that makes one
class of a text, the first token is global where it does not (sec. 5). Dropout of attention weights is not offered here.
"""

from typing import Any

from arch import config as configs
from arch.families import roberta
from arch.families._bert_like import body, body_rules, read_body, read_head, with_tokens, write_body, write_head
from arch.families._hyperparameters import confirm
from arch.families.roberta import HEADS, PADDING, head_rules
from arch.heads import classification, pooler
from arch.layers import stack
from arch.mixers import longformer_attention
from arch.models import encoder
from arch.published import Attributes, Rule


def compose(
    *,
    num_layers: int,
    windows: int | tuple[int, ...] = 512,
    length: int = 4098,
    max_globals: int = 64,
    head: configs.Config = pooler.Config(),
    **others: Any,
) -> encoder.Config:
    """The model; `windows` is one for all layers or one a layer, the others are as in `roberta.compose`.

    Raises:
      ValueError: the windows are not as many as the layers.
    """
    windows = (windows,) * num_layers if isinstance(windows, int) else tuple(windows)
    if len(windows) != num_layers:
        raise ValueError(f"windows={windows} must be one for each of num_layers={num_layers}")
    plain = roberta.compose(num_layers=num_layers, length=length, head=head, **others)
    layer = plain.layers.blocks[0]
    attention, ffn = layer.sublayers

    def block(window):
        mixer = longformer_attention.Config(
            num_heads=attention.num_heads,
            head_dim=attention.head_dim,
            window=window,
            max_globals=max_globals,
            globals=(0,) if isinstance(head, classification.Config) else (),
            bias=True,
        )
        return layer.replace(sublayers=(mixer, ffn))

    alike = len(set(windows)) == 1
    pattern = (block(windows[0]),) if alike else tuple(map(block, windows))
    return plain.replace(layers=stack.Config(pattern=pattern, repeats=num_layers if alike else 1))


PRESETS = {
    # Sec. 5: the released longformer-base-4096 and longformer-large-4096; with the pooler 148,659,456 and 434,600,960
    # parameters are counted.
    "longformer_base": compose(num_layers=12, embed_dim=768, num_heads=12),
    "longformer_large": compose(num_layers=24, embed_dim=1024, num_heads=16),
}

MODEL_TYPES = ("longformer",)
PREFIX = "longformer."


def read(attributes: Attributes) -> encoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("pad_token_id", PADDING)
    attributes.expect("attention_mode", "longformer")
    attributes.expect("ignore_attention_mask", False)
    attributes.ignore("onnx_export")
    windows = attributes.get("attention_window", 512)
    found = read_body(attributes)
    head = read_head(attributes, "Longformer", HEADS, activation="gelu", epsilon=found["epsilon"])
    attributes.finish()
    return compose(**found, windows=windows if isinstance(windows, int) else tuple(windows), head=head)


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    found = body(config, longformer_attention.Config)
    windows = tuple(getattr(layer.sublayers[0], "window", 0) for layer in config.layers.blocks)
    out = {"model_type": "longformer", "pad_token_id": PADDING, "bos_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
    out |= write_body(found) | write_head(config.head, "Longformer", HEADS)
    head = with_tokens(config.head, activation="gelu", epsilon=found["epsilon"])
    confirm(config, compose(**found, windows=windows, head=head))
    return out | {"attention_window": list(windows)}


def rules(config: encoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = body_rules(config, "longformer")
    for i, layer in enumerate(config.layers.blocks):
        n, ours = layer.sublayers[0].num_heads, f"layers/{i}/longformer_attention"
        for name in ("query_global", "key_global", "value_global"):
            theirs = f"longformer.encoder.layer.{i}.attention.self.{name}"
            out.append(Rule(f"{ours}/{name}", f"{theirs}.weight", "(n h) d -> d n h", n=n))
            out.append(Rule(f"{ours}/{name}_bias", f"{theirs}.bias", "(n h) -> n h", n=n))
    return out + head_rules(config.head, "longformer")


def ignored(config: encoder.Config) -> tuple[str, ...]:
    """The numbers of the positions, and the pooler that files hold of heads without one."""
    out = (r"longformer\.embeddings\.position_ids",)
    return out if isinstance(config.head, pooler.Config) else (*out, r"longformer\.pooler\.dense\.(weight|bias)")


def duplicates(config: encoder.Config) -> dict[str, str]:
    """The table and the bias of the masked tokens' logits, again."""
    return {ours: theirs.replace("roberta.", "longformer.") for ours, theirs in roberta.duplicates(config).items()}
