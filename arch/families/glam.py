"""GLaM and expert choice: decoders in which every other layer's ffn is a mixture, and a token meets a twelfth of all.

    x <- x + attention(norm(x));   x <- x + sum_{i in top 2} w_i W_down,i gelu(W_up,i norm(x)),   or a gated ffn

Du et al., GLaM: Efficient Scaling of Language Models with Mixture-of-Experts, 2021, arXiv 2112.06905, sec. 4 and table
4: the ffns of the other layers are gated by GELU, the experts are not (so counted, a token of the largest meets the
printed 96.6B), positions are a relative bias of each layer's own, the table is tied, a vocabulary of 256,000. The paper
leaves open its norms (here RMSNorm), the buckets of the bias (here T5's, in place of Dai et al.'s sines) and which of
two layers has the experts (here the first). Zhou et al., Mixture-of-Experts with Expert Choice Routing, 2022, arXiv
2202.09368, sec. 4.1, train the same 8B/64E with experts that choose their tokens (capacity factor 2), which looks ahead
in a row: `arch/routers/expert_choice.py` says so. No weights are published.
"""

from arch.ffns import gated_mlp, moe
from arch.layers import block, norm, stack
from arch.mixers import attention
from arch.models import decoder
from arch.positions import relative
from arch.routers import expert_choice, gshard
from arch.routers._router import Router


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    num_experts: int = 64,
    vocab_size: int = 256000,
    head_dim: int = 128,
    router: Router = gshard.Config(),
    renormalize: bool = True,
    balance_weight: float = 0.01,
) -> decoder.Config:
    """The model; `num_layers` is even, and a token has two experts, at least on average."""
    if num_layers % 2:
        raise ValueError(f"num_layers={num_layers} must be even: every other layer has experts")
    rms = norm.Config(kind="rms")
    mixer = attention.Config(num_heads=num_heads, head_dim=head_dim, position=relative.Config(shares=False))
    experts = moe.Config(
        num_experts=num_experts,
        top_k=2,
        hidden_dim=hidden_dim,
        router=router,
        activation="gelu",
        gated=False,
        renormalize=renormalize,
        balance_weight=balance_weight,
        z_weight=0.0,
    )
    dense = gated_mlp.Config(hidden_dim=hidden_dim, activation="gelu")
    pattern = tuple(block.Config(sublayers=(mixer, ffn), norm=rms) for ffn in (experts, dense))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=pattern, repeats=num_layers // 2),
        norm=rms,
        tie_embeddings=True,
    )


_8B = dict(embed_dim=4096, num_layers=32, num_heads=32, hidden_dim=16384)

PRESETS = {
    # Table 4 prints 143B with 9.8B of a token, 1.2T with 96.6B.
    "glam_8b_64e": compose(**_8B),
    "glam_64b_64e": compose(embed_dim=8192, num_layers=64, num_heads=128, hidden_dim=32768),
    "expert_choice_8b_64e": compose(**_8B, router=expert_choice.Config(), renormalize=False, balance_weight=0.0),
}

MODEL_TYPES = ()
