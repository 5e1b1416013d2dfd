"""Models that none of our published families covers, composed as a peer computes them, with rules for its tensors.

PaLM beside Cohere (which pairs the rotated channels in an interleaved way), the 2017 Transformer beside Marian (which
keeps all sines before all cosines, so that its channels are ours in another order), and LLaMAs with another rotation,
with QK norm (Qwen3) and with sandwich norms, soft caps and windows (Gemma 2).
"""

from arch.families import llama, palm, transformer
from arch.ffns import gated_mlp
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention
from arch.models import decoder, encoder_decoder
from arch.positions import rope, rope_ntk
from arch.published import Rule
from tests.parity import cases

LLAMA = dict(vocab_size=cases.VOCAB, embed_dim=24, num_layers=2, num_heads=4, num_kv_heads=2, hidden_dim=37)


def with_mixer(config: decoder.Config, **changes) -> decoder.Config:
    """A decoder whose layers' first sublayer has these fields changed."""
    [layer] = config.layers.pattern
    first, *rest = layer.sublayers
    layer = layer.replace(sublayers=(first.replace(**changes), *rest))
    return config.replace(layers=config.layers.replace(pattern=(layer,)))


def palm_cohere() -> tuple[decoder.Config, list[Rule]]:
    """PaLM but for its pairing of channels; Cohere's names are LLaMA's."""
    config = palm.compose(vocab_size=cases.VOCAB, embed_dim=24, num_layers=2, num_heads=3)
    config = with_mixer(config, position=rope.Config(pairing="interleaved"))
    rules = llama.around(config)
    for i, layer in enumerate(config.layers.blocks):
        before, *heads = llama.attention_rules(i, layer.sublayers[0])
        rules += [Rule(f"layers/{i}/norm/scale", before.theirs[0]), *heads, *gated_rules(i)]
    return config, rules


def gated_rules(i: int) -> list[Rule]:
    """The rules of layer i's gated_mlp."""
    ours, theirs = f"layers/{i}/gated_mlp", f"model.layers.{i}.mlp"
    return [Rule(f"{ours}/{name}", f"{theirs}.{name}_proj.weight", "o i -> i o") for name in ("gate", "up", "down")]


def llama_dynamic() -> tuple[decoder.Config, list[Rule]]:
    """NTK-aware rotation by the factor that the peer's dynamic one has on rows as long as those of the padded batch."""
    factor = 2.0 * max(cases.LENGTHS) / 5 - (2.0 - 1)
    config = llama.compose(**LLAMA | dict(num_layers=1), position=rope_ntk.Config(theta=100.0, factor=factor))
    return config, llama.rules(config)


def qwen3() -> tuple[decoder.Config, list[Rule]]:
    """LLaMA with a norm of each head's query and key."""
    config = with_mixer(llama.compose(**LLAMA, head_dim=8, epsilon=1e-6), qk_norm=True)
    more = [
        Rule(f"layers/{i}/attention/{name}_norm/scale", f"model.layers.{i}.self_attn.{name[0]}_norm.weight")
        for i in range(config.layers.repeats)
        for name in ("query", "key")
    ]
    return config, llama.rules(config) + more


def gemma2() -> tuple[decoder.Config, list[Rule]]:
    """Gemma 2. Its tensors hold what its norms' scales have above 1."""
    rms = norm.Config(kind="rms", epsilon=1e-6)
    heads = dict(num_heads=4, num_kv_heads=2, head_dim=8, scale=11**-0.5, soft_cap=1.5)
    ffn = gated_mlp.Config(hidden_dim=37, activation="gelu_tanh")
    period = tuple(
        block.Config(sublayers=(attention.Config(**heads, window=window), ffn), norm=rms, placement="sandwich")
        for window in (4, 0)
    )
    config = decoder.Config(
        vocab_size=cases.VOCAB,
        embed_dim=24,
        layers=stack.Config(pattern=period),
        embedding=embedding.Config(scale=0.0),
        norm=rms,
        logit_soft_cap=2.5,
    )
    rules = llama.around(config)
    for i, layer in enumerate(config.layers.blocks):
        rules += llama.attention_rules(i, layer.sublayers[0]) + gated_rules(i)
        for ours, theirs in (
            ("attention_post_norm", "post_attention_layernorm"),
            ("gated_mlp_norm", "pre_feedforward_layernorm"),
            ("gated_mlp_post_norm", "post_feedforward_layernorm"),
        ):
            rules.append(Rule(f"layers/{i}/{ours}/scale", f"model.layers.{i}.{theirs}.weight"))
    return config, [_above_one(rule) if rule.ours[0].endswith("norm/scale") else rule for rule in rules]


def _above_one(rule: Rule) -> Rule:
    return Rule(rule.ours, rule.theirs, shift=1.0)


def transformer_marian() -> tuple[encoder_decoder.Config, list[Rule]]:
    """The 2017 Transformer. Channel 2 f + c of the stream is Marian's channel 12 c + f."""
    config = transformer.compose(
        vocab_size=cases.VOCAB, embed_dim=24, num_layers=2, num_heads=3, hidden_dim=37, epsilon=1e-5
    )
    rules = [Rule("embedding/table", "model.shared.weight", "v (c f) -> v (f c)", c=2)]
    mixers = {"attention": "self_attn", "cross_attention": "encoder_attn"}
    for side, layers in (("encoder", config.encoder), ("decoder", config.decoder)):
        for i, layer in enumerate(layers.blocks):
            ours, theirs = f"{side}/layers/{i}", f"model.{side}.layers.{i}"
            for label in layer.labels:
                named = mixers.get(label, "final")
                for part, name in (("scale", "weight"), ("bias", "bias")):
                    whole = f"{theirs}.{named}_layer_norm.{name}"
                    rules.append(Rule(f"{ours}/{label}_norm/{part}", whole, "(c f) -> (f c)", c=2))
                if label in mixers:
                    rules += _marian_attention(f"{ours}/{label}", f"{theirs}.{named}")
            rules += [
                Rule(f"{ours}/mlp/up", f"{theirs}.fc1.weight", "o (c f) -> (f c) o", c=2),
                Rule(f"{ours}/mlp/up_bias", f"{theirs}.fc1.bias"),
                Rule(f"{ours}/mlp/down", f"{theirs}.fc2.weight", "(c f) i -> i (f c)", c=2),
                Rule(f"{ours}/mlp/down_bias", f"{theirs}.fc2.bias", "(c f) -> (f c)", c=2),
            ]
    return config, rules


def _marian_attention(ours: str, theirs: str) -> list[Rule]:
    sizes = dict(n=3, c=2)
    projections = [
        Rule(f"{ours}/{name}", f"{theirs}.{name[0]}_proj.weight", "(n h) (c f) -> (f c) n h", **sizes)
        for name in ("query", "key", "value")
    ]
    return [*projections, Rule(f"{ours}/out", f"{theirs}.out_proj.weight", "(c f) (n h) -> n h (f c)", **sizes)]


COMPOSITIONS = {
    "palm_cohere": palm_cohere,
    "transformer_marian": transformer_marian,
    "llama_dynamic": llama_dynamic,
    "qwen3": qwen3,
    "gemma2": gemma2,
}
"""By the name of their case in `cases.COMPOSED`: our config, and the rules of the peer's tensors."""
