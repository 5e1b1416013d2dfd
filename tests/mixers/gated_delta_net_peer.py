"""Makes the golden of Gated DeltaNet: what transformers' Qwen3-Next computes with one layer and with its rule alone.

    python -m tests.mixers.gated_delta_net_peer        where torch and transformers 5.23 are installed

It writes goldens/gated_delta_net.npz. `SIZES`, `tensors` and `arrays` are also read by the test, which needs neither.
"""

import json
import pathlib

import numpy as np

from tests.parity.cases import weights

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "gated_delta_net.npz"
BATCH, LENGTH, WIDTH = 2, 71, 11
"""More tokens than one of their chunks, 64."""
SIZES = dict(num_heads=6, num_key_heads=2, key_dim=3, value_dim=5, conv_width=4, epsilon=1e-2)


def tensors() -> dict[str, np.ndarray]:
    """The layer's weights by their names."""
    n, k, h, v = (SIZES[name] for name in ("num_heads", "num_key_heads", "key_dim", "value_dim"))
    shapes = {
        "in_proj_qkvz.weight": (2 * k * h + 2 * n * v, WIDTH),
        "in_proj_ba.weight": (2 * n, WIDTH),
        "conv1d.weight": (2 * k * h + n * v, 1, SIZES["conv_width"]),
        "dt_bias": (n,),
        "A_log": (n,),
        "norm.weight": (v,),
        "out_proj.weight": (WIDTH, n * v),
    }
    return {name: weights(f"gated_delta_net {name}", shape) for name, shape in shapes.items()}


def arrays() -> dict[str, np.ndarray]:
    """What the layer reads, x, and what the rule alone reads."""
    n, k, h, v = (SIZES[name] for name in ("num_heads", "num_key_heads", "key_dim", "value_dim"))
    normal = lambda name, *shape: weights(f"gated_delta_net input {name}", shape)
    tokens = BATCH, LENGTH
    key = normal("key", *tokens, k, h)
    return {
        "x": 3 * normal("x", *tokens, WIDTH),
        "query": normal("query", *tokens, k, h),
        "key": key / np.linalg.norm(key, axis=-1, keepdims=True),
        "value": normal("value", *tokens, n, v),
        "log_decay": -np.exp(normal("log_decay", *tokens, n)),
        "beta": 1 / (1 + np.exp(-5 * normal("beta", *tokens, n))),
        "state": normal("state", BATCH, n, v, h),
    }


def main() -> None:
    import torch
    import transformers
    from transformers.models.qwen3_next import modeling_qwen3_next as peer

    config = transformers.Qwen3NextConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_value_heads=SIZES["num_heads"],
        linear_num_key_heads=SIZES["num_key_heads"],
        linear_key_head_dim=SIZES["key_dim"],
        linear_value_head_dim=SIZES["value_dim"],
        linear_conv_kernel_dim=SIZES["conv_width"],
        rms_norm_eps=SIZES["epsilon"],
    )
    layer = peer.Qwen3NextGatedDeltaNet(config, 0).eval()
    layer.load_state_dict({name: torch.from_numpy(value) for name, value in tensors().items()})
    read = {name: torch.from_numpy(value) for name, value in arrays().items()}
    names = ("query", "key", "value", "log_decay", "beta")
    how = dict(initial_state=read["state"].mT, output_final_state=True)
    out = {}
    with torch.no_grad():
        out["layer"] = layer(read["x"])
        for kind, rule in {
            "chunked": peer.torch_chunk_gated_delta_rule,
            "recurrent": peer.torch_recurrent_gated_delta_rule,
        }.items():
            out[kind], state = rule(*(read[name] for name in names), **how)
            out[f"{kind}/state"] = state.mT
    about = {"command": "python -m tests.mixers.gated_delta_net_peer"}
    about |= {peers.__name__: peers.__version__ for peers in (torch, transformers)}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, about=np.array(json.dumps(about)), **{name: x.numpy() for name, x in out.items()})


if __name__ == "__main__":
    main()
