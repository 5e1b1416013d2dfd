"""Makes the goldens of GLA: what the authors' flash-linear-attention computes with tiny models, seeded by name.

    python -m tests.families.gla_peer        where torch, transformers, triton and flash-linear-attention 0.6.0 are

It writes goldens/gla.npz: for each of `MODELS` the logits of each row alone. The package's kernels want a GPU: its own
naive recurrence stands in for them, and torch's RMSNorm and silu for its fused ones. `MODELS`, `rows` and `tensors` are
also read by the test, which needs none of them.
"""

import json
import pathlib

import numpy as np

from tests.parity.cases import ids, weights

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "gla.npz"
LENGTHS = (19, 7)
"""Tokens in the rows."""
SIZES = dict(vocab_size=53, hidden_size=24, num_heads=3)
MODELS = {
    "plain": SIZES | dict(num_hidden_layers=2, intermediate_size=37),
    "tied": SIZES | dict(num_hidden_layers=1, expand_k=0.25, expand_v=2, norm_eps=0.1, tie_word_embeddings=True),
}
"""Arguments of GLAConfig."""
RANK = 16
"""Of the gates, which no argument says."""


def rows() -> list[np.ndarray]:
    """The ids of each row."""
    return ids("gla", LENGTHS)


def tensors(name: str) -> dict[str, np.ndarray]:
    """The model by the names of its state."""
    args = MODELS[name]
    d, n = args["hidden_size"], args["num_heads"]
    k, v, f = int(d * args.get("expand_k", 0.5)), int(d * args.get("expand_v", 1)), args.get("intermediate_size", 256)
    shapes = {"model.embeddings.weight": (args["vocab_size"], d), "model.norm.weight": (d,)}
    if not args.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (args["vocab_size"], d)
    for i in range(args["num_hidden_layers"]):
        attn, mlp = f"model.layers.{i}.attn", f"model.layers.{i}.mlp"
        shapes |= {f"{part}_norm.weight": (d,) for part in (attn, mlp)}
        shapes |= {f"{attn}.{part}_proj.weight": (k if part in "qk" else v, d) for part in "qkvg"}
        shapes |= {f"{attn}.gk_proj.0.weight": (RANK, d), f"{attn}.gk_proj.1.weight": (k, RANK)}
        shapes |= {f"{attn}.gk_proj.1.bias": (k,), f"{attn}.g_norm_swish_gate.weight": (v // n,)}
        shapes |= {f"{attn}.o_proj.weight": (d, v), f"{mlp}.down_proj.weight": (d, f)}
        shapes |= {f"{mlp}.{part}_proj.weight": (f, d) for part in ("gate", "up")}
    return {tensor: weights(f"{name} {tensor}", shape) for tensor, shape in shapes.items()}


def main() -> None:
    import fla.layers.gla
    import fla.modules.mlp
    import torch
    import transformers
    from fla.models import GLAConfig, GLAForCausalLM
    from fla.ops.gla.naive import naive_recurrent_gla

    def recurrence(q, k, v, gk, *, initial_state, output_final_state, **_):
        return naive_recurrent_gla(q, k, v, gk, initial_state, output_final_state)

    def rms_norm(hidden_size, elementwise_affine, eps, dtype):
        return torch.nn.RMSNorm(hidden_size, eps=eps, elementwise_affine=elementwise_affine, dtype=dtype)

    silu = torch.nn.functional.silu
    fla.layers.gla.fused_recurrent_gla, fla.layers.gla.RMSNorm = recurrence, rms_norm
    fla.layers.gla.ACT2FN = {"swish": silu}
    fla.modules.mlp.swiglu = lambda gate, up: silu(gate) * up
    logits = {}
    for name, args in MODELS.items():
        model = GLAForCausalLM(GLAConfig(**args, fuse_norm=False, fuse_swiglu=False, use_cache=False)).eval()
        own = {tensor.replace("g_norm_swish_gate", "g_norm"): value for tensor, value in tensors(name).items()}
        own.setdefault("lm_head.weight", own["model.embeddings.weight"])
        model.load_state_dict({tensor: torch.from_numpy(value) for tensor, value in own.items()})
        with torch.no_grad():
            logits[name] = np.concatenate([model(torch.from_numpy(row)[None]).logits[0].numpy() for row in rows()])
    about = dict(command="python -m tests.families.gla_peer", fla="0.6.0", torch=torch.__version__)
    about["transformers"] = transformers.__version__
    np.savez_compressed(GOLDEN, about=np.array(json.dumps(about)), **logits)


if __name__ == "__main__":
    main()
