"""Makes the goldens of RetNet: what the package torchscale of its authors computes with tiny models, seeded by name.

    python -m tests.families.retnet_peer        where torch, torchscale 0.3.0 and fairscale are installed

It writes goldens/retnet.npz: for each of `MODELS` the logits of each row alone, in its parallel form. `MODELS`, `rows`
and `tensors` are also read by the test, which needs none of them.
"""

import json
import pathlib
import sys
import types

import numpy as np

from tests.parity.cases import ids, weights

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "retnet.npz"
LENGTHS = (19, 7)
"""Tokens in the rows."""
SIZES = dict(
    vocab_size=53, decoder_embed_dim=24, decoder_value_embed_dim=42, decoder_retention_heads=3,
    decoder_ffn_embed_dim=37, layernorm_eps=1e-12,
)  # fmt: skip
"""An epsilon that nobody sees: theirs is added to scores that were divided, ours to those that were not."""
MODELS = {
    "plain": SIZES | dict(decoder_layers=2),
    "swish": SIZES | dict(
        decoder_layers=1, activation_fn="swish", no_scale_embedding=False, layernorm_embedding=True,
        share_decoder_input_output_embed=True,
    ),
}  # fmt: skip
"""Arguments of RetNetConfig."""


def rows() -> list[np.ndarray]:
    """The ids of each row."""
    return ids("retnet", LENGTHS)


def tensors(name: str) -> dict[str, np.ndarray]:
    """The model by the names of its state, without angles, decays and what is there twice."""
    args = MODELS[name]
    d, v, f = (args[f"decoder_{what}embed_dim"] for what in ("", "value_", "ffn_"))
    shapes = {"embed_tokens.weight": (args["vocab_size"], d), "layer_norm.weight": (d,)}
    if args.get("layernorm_embedding"):
        shapes["layernorm_embedding.weight"] = (d,)
    if not args.get("share_decoder_input_output_embed"):
        shapes["output_projection.weight"] = (args["vocab_size"], d)
    for i in range(args["decoder_layers"]):
        shapes |= {f"layers.{i}.{norm}_layer_norm.weight": (d,) for norm in ("retention", "final")}
        mixer, ffn = f"layers.{i}.retention", f"layers.{i}.ffn"
        shapes |= {f"{mixer}.{part}_proj.weight": (d if part in "qk" else v, d) for part in "qkvg"}
        shapes[f"{mixer}.out_proj.weight"] = (d, v)
        shapes |= {f"{ffn}.fc1.weight": (f, d), f"{ffn}.gate.weight": (f, d), f"{ffn}.fc2.weight": (d, f)}
    return {tensor: weights(f"{name} {tensor}", shape) for tensor, shape in shapes.items()}


def main() -> None:
    layers = types.ModuleType("timm.models.layers")
    layers.drop_path = None  # of which only training has need
    sys.modules |= {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
    sys.modules["timm.models.layers"] = layers
    import torch
    from torchscale.architecture.config import RetNetConfig
    from torchscale.architecture.retnet import RetNetDecoder

    logits = {}
    for name, args in MODELS.items():
        table = torch.nn.Embedding(args["vocab_size"], args["decoder_embed_dim"])
        model = RetNetDecoder(RetNetConfig(**args), embed_tokens=table).eval()
        own = {tensor: torch.from_numpy(value) for tensor, value in tensors(name).items()}
        missing, unexpected = model.load_state_dict(own, strict=False)
        assert not unexpected and all("rel_pos" in tensor or "output" in tensor for tensor in missing), missing
        with torch.no_grad():
            logits[name] = np.concatenate([model(torch.from_numpy(row)[None])[0][0].numpy() for row in rows()])
    about = dict(command="python -m tests.families.retnet_peer", torchscale="0.3.0", torch=torch.__version__)
    np.savez_compressed(GOLDEN, about=np.array(json.dumps(about)), **logits)


if __name__ == "__main__":
    main()
