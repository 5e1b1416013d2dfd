"""Makes the goldens of Performer: what the package performer-pytorch computes with tiny models, seeded by name.

    python -m tests.families.performer_peer    where torch, setuptools < 66 and performer-pytorch 1.1.4 are installed

It writes goldens/performer.npz, for each of `MODELS` the logits of each row alone, without the 1e-4 that the package
adds to positive features and the 1e-6 that it adds to causal sums. `MODELS`, `rows` and `tensors` are also read by the
test, which needs neither package.
"""

import functools
import json
import math
import pathlib

import numpy as np

from tests.parity.cases import ids, weights

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "performer.npz"
LENGTHS = (19, 7)
"""Tokens in the rows."""
SIZES = dict(num_tokens=53, max_seq_len=29, dim=24, depth=2, heads=3, dim_head=10, tie_embed=True)
MODELS = {
    "causal": SIZES | dict(causal=True, nb_features=13),
    "encoder": SIZES | dict(rotary_position_emb=False, ff_mult=2),
    "relu": SIZES | dict(causal=True, generalized_attention=True, nb_features=7, ff_glu=True, depth=1),
}
"""Arguments of PerformerLM."""


def rows() -> list[np.ndarray]:
    """The ids of each row."""
    return ids("performer", LENGTHS)


def tensors(name: str) -> dict[str, np.ndarray]:
    """The model by the names of its state, without constants and what is there twice."""
    args = dict(ff_mult=4, nb_features=int(10 * math.log(10))) | MODELS[name]
    d, inner, f = args["dim"], args["heads"] * args["dim_head"], args["ff_mult"] * args["dim"]
    shapes = {"token_emb.weight": (args["num_tokens"], d)} | _norm("norm", d)
    if not args.get("rotary_position_emb", True):
        shapes["pos_emb.emb.weight"] = (args["max_seq_len"], d)
    for i in range(args["depth"]):
        mixer, ffn = (f"performer.net.layers.{i}.{j}" for j in (0, 1))
        shapes |= _norm(f"{mixer}.norm", d) | _norm(f"{ffn}.norm", d)
        shapes |= {f"{mixer}.fn.to_{part}.weight": (inner, d) for part in "qkv"}
        shapes[f"{mixer}.fn.to_out.weight"] = (d, inner)
        shapes[f"{mixer}.fn.fast_attention.projection_matrix"] = (args["nb_features"], args["dim_head"])
        wide = 2 * f if args.get("ff_glu") else f
        shapes |= {f"{ffn}.fn.fn.w1.weight": (wide, d), f"{ffn}.fn.fn.w1.bias": (wide,)}
        shapes |= {f"{ffn}.fn.fn.w2.weight": (d, f), f"{ffn}.fn.fn.w2.bias": (d,)}
    scale = lambda tensor: 3 if tensor.endswith("projection_matrix") else 1  # normal vectors, about
    return {tensor: scale(tensor) * weights(f"{name} {tensor}", shape) for tensor, shape in shapes.items()}


def _norm(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (d,), f"{name}.bias": (d,)}


def main() -> None:
    import performer_pytorch.performer_pytorch as package
    import torch

    for function in ("softmax_kernel", "causal_linear_attention_noncuda"):
        setattr(package, function, functools.partial(getattr(package, function), eps=0.0))
    read = {}
    for name, args in MODELS.items():
        model = package.PerformerLM(**args).eval()
        own = {tensor: torch.from_numpy(value) for tensor, value in tensors(name).items()}
        missing, unexpected = model.load_state_dict(own, strict=False)
        twice = "performer.proj_updater", "pos_emb.emb", "layer_pos_emb.emb"
        assert not unexpected and all(tensor.startswith(twice) for tensor in missing), (missing, unexpected)
        with torch.no_grad():
            logits = [model(torch.from_numpy(row)[None])[0].numpy() for row in rows()]
        read[name] = np.concatenate(logits)
    about = dict(command="python -m tests.families.performer_peer", performer_pytorch="1.1.4", torch=torch.__version__)
    np.savez_compressed(GOLDEN, about=np.array(json.dumps(about)), **read)


if __name__ == "__main__":
    main()
