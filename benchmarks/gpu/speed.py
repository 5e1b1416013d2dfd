"""Training steps of models of about 130m parameters at 2k, 8k and 32k tokens, 32k a step: tokens a second."""

from functools import partial

from arch.families import llama, mamba2_lm, mamba_lm, rwkv
from arch.mixers import performer
from benchmarks.gpu.training import Step

TOKENS = 32768
LENGTHS = 2048, 8192, 32768
SECONDS = 180
LLAMA = llama.compose(
    vocab_size=50280, embed_dim=768, num_layers=12, num_heads=12, hidden_dim=2048, tie_embeddings=True
)


def _performer():
    """LLaMA's blocks with FAVOR+ in place of attention, which knows no places."""
    (layer,) = LLAMA.layers.pattern
    mixer = performer.Config(num_heads=12, head_dim=64)
    layer = layer.replace(sublayers=(mixer, *layer.sublayers[1:]))
    return LLAMA.replace(layers=LLAMA.layers.replace(pattern=(layer,)))


MODELS = {
    "mamba 130m": mamba_lm.PRESETS["mamba_130m"],
    "mamba2 130m": mamba2_lm.PRESETS["mamba2_130m"],
    "rwkv4 169m": rwkv.PRESETS["rwkv4_169m"],
    "performer 124m": _performer(),
    "llama 124m": LLAMA,
}
PIECES = {
    f"{name} at {length}": partial(Step, name, cfg, rows=TOKENS // length, length=length)
    for length in LENGTHS
    for name, cfg in MODELS.items()
}
