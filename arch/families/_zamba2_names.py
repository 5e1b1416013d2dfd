"""How published Zamba2s name what ours name: `arch.families.zamba2`."""

from arch.families.mamba2_lm import mixer_rules
from arch.mixers import shared_transformer
from arch.models import decoder
from arch.published import Rule


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; those of a shared transformer, all adapters among them, are at the first of its places."""
    out = [Rule("embedding/table", "model.embed_tokens.weight"), Rule("norm/scale", "model.final_layernorm.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    places = _places(config)
    for i, layer in enumerate(config.layers.blocks):
        ours, theirs, state = f"layers/{i}", f"model.layers.{i}", layer.sublayers[-1]
        if i in places:
            out.append(Rule(f"{ours}/shared_transformer/out", f"{theirs}.linear.weight", "o i -> i o"))
            theirs += ".mamba_decoder"
        out.append(Rule(f"{ours}/mamba2_norm/scale", f"{theirs}.input_layernorm.weight"))
        out += mixer_rules(state, f"{ours}/mamba2", f"{theirs}.mamba")
    for number, (i, first) in enumerate(places.items()):
        place, theirs = config.layers.blocks[i].sublayers[0], f"model.layers.{first}.shared_transformer"
        if i == first:
            out += _layer_rules(place.layer, f"layers/{place.group}", theirs)
        out += _adapter_rules(place, number, f"layers/{i}/shared_transformer", theirs)
    return out


def _places(config: decoder.Config) -> dict[int, int]:
    """The layers that read a shared transformer, in order -> the first one that reads the same."""
    first: dict[str, int] = {}
    mixers = {i: layer.sublayers[0] for i, layer in enumerate(config.layers.blocks)}
    places = {i: mixer for i, mixer in mixers.items() if isinstance(mixer, shared_transformer.Config)}
    return {i: first.setdefault(place.group, i) for i, place in places.items()}


def _layer_rules(layer: shared_transformer.Layer, ours: str, theirs: str) -> list[Rule]:
    """The rules of what is shared."""
    out = [
        Rule(f"{ours}/norm/scale", f"{theirs}.input_layernorm.weight"),
        Rule(f"{ours}/ffn_norm/scale", f"{theirs}.pre_ff_layernorm.weight"),
        Rule(f"{ours}/out", f"{theirs}.self_attn.o_proj.weight", "d (n h) -> n h d", n=layer.num_heads),
        Rule(f"{ours}/down", f"{theirs}.feed_forward.down_proj.weight", "d f -> f d"),
    ]
    halves, cuts = (f"{ours}/gate", f"{ours}/up"), (layer.hidden_dim,) * 2
    out.append(Rule(halves, f"{theirs}.feed_forward.gate_up_proj.weight", "f d -> d f", cuts=cuts))
    for name in ("query", "key", "value"):
        there = f"{theirs}.self_attn.{name[0]}_proj.weight"
        out.append(Rule(f"{ours}/{name}", there, "(n h) d -> d n h", n=layer.num_heads))
    return out


def _adapter_rules(place: shared_transformer.Config, number: int, ours: str, theirs: str) -> list[Rule]:
    """The rules of the adapters of a place, which has this number among all of them."""
    there = f"{theirs}.feed_forward.gate_up_proj_adapter_list.{number}"
    halves, cuts = (f"{ours}/ffn_gate", f"{ours}/ffn_up"), (place.layer.hidden_dim,) * 2
    out = [Rule(f"{ours}/ffn_down", f"{there}.0.weight", "r d -> d r")]
    out.append(Rule(halves, f"{there}.1.weight", "f r -> r f", cuts=cuts))
    for name in ("query", "key", "value") if place.attention_rank else ():
        there = f"{theirs}.self_attn.linear_{name[0]}_adapter_list.{number}"
        out.append(Rule(f"{ours}/{name}_down", f"{there}.0.weight", "r d -> d r"))
        out.append(Rule(f"{ours}/{name}_up", f"{there}.1.weight", "(n h) r -> r n h", n=place.layer.num_heads))
    return out


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied, and a shared transformer at each of its later places."""
    out = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_embeddings else {}
    theirs = [name for rule in rules(config) for name in rule.theirs]
    for i, first in _places(config).items():
        at, there = f"model.layers.{first}.shared_transformer.", f"model.layers.{i}.shared_transformer."
        out |= {name.replace(at, there): name for name in theirs if name.startswith(at) and i != first}
    return out
