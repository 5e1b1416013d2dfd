"""Tiny models of the decoder families, covering their variants."""

from arch.families import bloom, falcon, gpt, gpt_neox, llama, mamba2_lm, mamba_lm, mistral, mixtral, rwkv
from arch.positions import rope, rope_linear, rope_llama3, rope_yarn

SIZES = dict(vocab_size=11, embed_dim=12, num_layers=2, num_heads=6)
LLAMA = SIZES | dict(hidden_dim=7)
LLAMA3 = rope_llama3.Config(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=16)

TINY = {
    "gpt": (gpt, gpt.compose(**SIZES, length=5)),
    "gpt_untied": (gpt, gpt.compose(**SIZES, hidden_dim=7, length=5, scale=1.0, tie_embeddings=False)),
    "gpt_neox": (gpt_neox, gpt_neox.compose(**SIZES)),
    "gpt_neox_sequential": (
        gpt_neox,
        gpt_neox.compose(
            **SIZES,
            parallel=False,
            attention_bias=False,
            position=rope_linear.Config(factor=2.0, fraction=1.0),
            tie_embeddings=True,
        ),
    ),
    "falcon_7b": (falcon, falcon.compose(**SIZES)),
    "falcon_40b": (falcon, falcon.compose(**SIZES, num_kv_heads=2, placement="parallel_norms")),
    "falcon2": (falcon, falcon.compose(**SIZES, num_kv_heads=3, tie_embeddings=False)),
    "falcon_rw": (
        falcon,
        falcon.compose(**SIZES, num_kv_heads=6, placement="pre", position=falcon.slopes(12, 6), bias=True),
    ),
    "llama": (llama, llama.compose(**LLAMA)),
    "llama_grouped": (
        llama,
        llama.compose(
            **LLAMA,
            num_kv_heads=2,
            head_dim=4,
            attention_bias=True,
            mlp_bias=True,
            activation="gelu_tanh",
            attention_dropout=0.1,
            tie_embeddings=True,
        ),
    ),
    "llama_linear": (llama, llama.compose(**LLAMA, position=rope_linear.Config(factor=2.0, theta=9.0))),
    "llama_yarn": (llama, llama.compose(**LLAMA, position=rope_yarn.Config(factor=2.0, original_length=8))),
    "llama_yarn_all": (
        llama,
        llama.compose(
            **LLAMA,
            position=rope_yarn.Config(
                factor=2.0, original_length=8, beta_fast=9.0, beta_slow=2.0, amplitude=1.5, truncate=False
            ),
        ),
    ),
    "llama_llama3": (llama, llama.compose(**LLAMA, position=LLAMA3)),
    "mistral": (mistral, mistral.compose(**LLAMA, num_kv_heads=3, window=4)),
    "mistral_full": (mistral, mistral.compose(**LLAMA, position=rope.Config(theta=9.0))),
    "mixtral": (mixtral, mixtral.compose(**LLAMA, num_experts=3, top_k=2, window=4)),
    "bloom": (bloom, bloom.compose(**SIZES, residual_dropout=0.1)),
    "mamba": (mamba_lm, mamba_lm.compose(vocab_size=11, embed_dim=12, num_layers=2, state_dim=3)),
    "rwkv": (rwkv, rwkv.compose(vocab_size=11, embed_dim=12, num_layers=2, hidden_dim=17)),
    "mamba2": (
        mamba2_lm,
        mamba2_lm.compose(vocab_size=11, embed_dim=12, num_layers=2, head_dim=4, state_dim=5, num_groups=3),
    ),
    "mamba_rank": (
        mamba_lm,
        mamba_lm.compose(vocab_size=11, embed_dim=12, num_layers=2, inner_dim=36, dt_rank=5, tie_embeddings=False),
    ),
    "falcon_mamba": (
        mamba_lm,
        mamba_lm.compose(
            vocab_size=11, embed_dim=12, num_layers=2, inner_norms="plain", inner_epsilon=0.1, tie_embeddings=False
        ),
    ),
}
"""(family, config) by name."""
