"""Latent attention in DeepSeek's files: YaRN's temperature, and the names of its tensors."""

import math

from arch.families._vocabulary import read_rope, write_rope
from arch.mixers import latent_attention
from arch.positions import rope_yarn
from arch.published import Attributes, Rule


def softer(factor: float, share: float) -> float:
    """YaRN's 0.1 ln(factor) + 1, the logarithm times a share (`mscale` of the released configs)."""
    return 0.1 * share * math.log(factor) + 1 if factor > 1 else 1.0


def temperature(width: int, factor: float, share: float) -> float:
    """Factor of the logits: YaRN's temperature acts on whole heads, not on the channels that turn alone."""
    return width**-0.5 * softer(factor, share) ** 2


def read_position(attributes: Attributes, width: int, interleaved: bool) -> dict:
    """`position` and `scale` of `latent_attention.Config`.

    Args:
      attributes: of the model.
      width: channels of a head's query.
      interleaved: how the channels that turn are paired.

    Raises:
      ValueError: a scheme that is not expressed here.
    """
    values = attributes.nested("rope_parameters" if attributes.get("rope_parameters", {}) else "rope_scaling")
    share, of_all = values.get("mscale", 0), values.get("mscale_all_dim", 0)
    position = read_rope(attributes)
    if interleaved:
        position = position.replace(pairing="interleaved")
    if not isinstance(position, rope_yarn.Config):
        values.expect("mscale_all_dim", 0, None)
        return {"position": position}
    if share and of_all and not position.amplitude:
        position = position.replace(amplitude=softer(position.factor, share) / softer(position.factor, of_all))
    return {"position": position, "scale": temperature(width, position.factor, of_all) if of_all else 0.0}


def write_position(mixer: latent_attention.Config) -> dict:
    """Their attributes of a mixer's `position` and `scale`. Raises ValueError on what they cannot express."""
    position, interleaved = mixer.position, getattr(mixer.position, "pairing", "") == "interleaved"
    out = write_rope(position.replace(pairing="halves") if interleaved else position)
    if mixer.scale:
        share = _write_scale(mixer)
        out["rope_scaling"] |= share
        if position.amplitude == 1:  # the released code knows mscale alone
            out["rope_scaling"]["mscale"] = share["mscale_all_dim"]
            del out["rope_scaling"]["attention_factor"]
    return out


def _write_scale(mixer: latent_attention.Config) -> dict:
    width, factor = mixer.head_dim + mixer.rope_dim, getattr(mixer.position, "factor", 1.0)
    if isinstance(mixer.position, rope_yarn.Config) and factor > 1:
        share = round((math.sqrt(mixer.scale * width**0.5) - 1) / (0.1 * math.log(factor)), 6)
        if share > 0 and temperature(width, factor, share) == mixer.scale:
            return {"mscale_all_dim": share}
    raise ValueError(f"scale={mixer.scale} must be 0 or YaRN's temperature in this family")


def latent_rules(i: int, mixer: latent_attention.Config) -> list[Rule]:
    """Layer i's latent attention and the norm before it; two of theirs hold two of ours, one below the other."""
    ours, theirs = f"layers/{i}/latent_attention", f"model.layers.{i}.self_attn"
    out = [Rule(f"{ours}_norm/scale", f"model.layers.{i}.input_layernorm.weight")]
    name = "q_proj"
    if mixer.query_latent_dim:
        name = "q_b_proj"
        out.append(Rule(f"{ours}/query_down", f"{theirs}.q_a_proj.weight", "r d -> d r"))
        out.append(Rule(f"{ours}/query_norm/scale", f"{theirs}.q_a_layernorm.weight"))
    n, latent, rows = mixer.num_heads, (mixer.latent_dim, mixer.rope_dim), (mixer.head_dim, mixer.value_dim)
    down, up = (f"{ours}/latent_down", f"{ours}/rope_key"), (f"{ours}/key", f"{ours}/value")
    return out + [
        Rule(f"{ours}/query", f"{theirs}.{name}.weight", "(n h) d -> d n h", n=n),
        Rule(down, f"{theirs}.kv_a_proj_with_mqa.weight", "r d -> d r", cuts=latent),
        Rule(f"{ours}/latent_norm/scale", f"{theirs}.kv_a_layernorm.weight"),
        Rule(up, f"{theirs}.kv_b_proj.weight", "h n r -> r n h", first="(n h) r -> h n r", cuts=rows, n=n),
        Rule(f"{ours}/out", f"{theirs}.o_proj.weight", "d (n h) -> n h d", n=n),
    ]
