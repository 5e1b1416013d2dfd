"""Rules of tensors that GPT-2 and the descendants of Megatron-LM (GPT-NeoX, Falcon, BLOOM) lay out alike."""

from arch.mixers import attention
from arch.published import Rule


def norm_rules(ours: str, theirs: str) -> list[Rule]:
    """LayerNorm's scale and shift."""
    return [Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str, *, bias: bool) -> list[Rule]:
    """A matrix [in out], theirs [out in], and its shift."""
    out = [Rule(ours, f"{theirs}.weight", "o i -> i o")]
    return out + [Rule(f"{ours}_bias", f"{theirs}.bias")] if bias else out


def fused(ours: str, theirs: str, mixer: attention.Config) -> list[Rule]:
    """Attention whose query, key and value are one tensor: for each of k groups, g queries, a key and a value.

    Multi-head attention (g = 1) and multi-query attention (k = 1) are the ends of it.
    """
    paths = [f"{ours}/{name}" for name in ("query", "key", "value")]
    k, h = mixer.kv_heads, mixer.head_dim
    cut = {"cuts": (mixer.num_heads // k, 1, 1), "k": k, "h": h}
    whole = f"{theirs}.query_key_value"
    out = [
        Rule(paths, f"{whole}.weight", "g k h d -> d (k g) h", first="(k g h) d -> g k h d", **cut),
        Rule(f"{ours}/out", f"{theirs}.dense.weight", "d (n h) -> n h d", h=h),
    ]
    if mixer.bias == "all":
        biases = [f"{path}_bias" for path in paths]
        out.append(Rule(biases, f"{whole}.bias", "g k h -> (k g) h", first="(k g h) -> g k h", **cut))
        out.append(Rule(f"{ours}/out_bias", f"{theirs}.dense.bias"))
    return out
