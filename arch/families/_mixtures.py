"""What families of mixtures of experts share: names of tensors, laid out as DeepSeek's and Qwen's files have them."""

from arch.ffns import moe
from arch.published import Rule


def gated_rules(ours: str, theirs: str) -> list[Rule]:
    """The three matrices of a gated perceptron."""
    return [Rule(f"{ours}/{name}", f"{theirs}.{name}_proj.weight", "o i -> i o") for name in ("gate", "up", "down")]


def dense_rules(i: int, theirs: str = "mlp", norm: str = "post_attention_layernorm") -> list[Rule]:
    """Layer i's gated_mlp and the norm before it."""
    ours, layer = f"layers/{i}/gated_mlp", f"model.layers.{i}"
    return [Rule(f"{ours}_norm/scale", f"{layer}.{norm}.weight"), *gated_rules(ours, f"{layer}.{theirs}")]


def moe_rules(
    i: int,
    ffn: moe.Config,
    theirs: str = "mlp",
    *,
    router: str = "gate",
    shared: str = "shared_experts",
    norm: str = "post_attention_layernorm",
) -> list[Rule]:
    """Layer i's mixture and the norm before it; each matrix has a tensor an expert.

    Args:
      i: number of the layer.
      ffn: the mixture.
      theirs: name of the mixture in their layer.
      router: name of the router in their mixture.
      shared: name of the shared expert in their mixture.
      norm: name of the norm in their layer.
    """
    ours, layer = f"layers/{i}/moe", f"model.layers.{i}"
    theirs = f"{layer}.{theirs}"
    out = [Rule(f"{ours}_norm/scale", f"{layer}.{norm}.weight")]
    out.append(Rule(f"{ours}/router", f"{theirs}.{router}.weight", "e d -> d e"))
    for name in ("gate", "up", "down"):
        each = [f"{theirs}.experts.{e}.{name}_proj.weight" for e in range(ffn.num_experts)]
        out.append(Rule(f"{ours}/{name}", each, "e o i -> e i o"))
    return out + (gated_rules(f"{ours}/shared", f"{theirs}.{shared}") if ffn.shared_dim else [])
