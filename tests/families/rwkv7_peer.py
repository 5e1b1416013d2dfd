"""Makes the golden of RWKV-7: what the package `rwkv` computes with a tiny model, whose weights are seeded by name.

    python -m tests.families.rwkv7_peer        where torch and rwkv 0.8.32 are installed; writes goldens/rwkv7.npz

`SIZES` and `tensors` are also read by the test, which needs neither.
"""

import json
import os
import pathlib
import tempfile

import numpy as np

from tests.parity.cases import ids, weights

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "rwkv7.npz"
LENGTHS = (19, 7)
"""Tokens in the rows."""
SIZES = dict(
    vocab_size=53, embed_dim=24, num_layers=3, hidden_dim=37, head_dim=8, decay_rank=5, rate_rank=3, gate_rank=7,
    value_rank=2,
)  # fmt: skip


def rows() -> list[np.ndarray]:
    """The ids of each row."""
    return ids("rwkv7", LENGTHS)


def tensors() -> dict[str, np.ndarray]:
    """The model by the names of the published files."""
    d, f, v, n = (SIZES[name] for name in ("embed_dim", "hidden_dim", "vocab_size", "head_dim"))
    shapes = {"emb.weight": (v, d), "head.weight": (v, d)} | _norms("ln_out", d) | _norms("blocks.0.ln0", d)
    for i in range(SIZES["num_layers"]):
        layer, mix = f"blocks.{i}", f"blocks.{i}.att"
        shapes |= _norms(f"{layer}.ln1", d) | _norms(f"{layer}.ln2", d) | _norms(f"{mix}.ln_x", d)
        shapes |= {f"{mix}.x_{name}": (1, 1, d) for name in "rwkvag"}
        shapes |= {f"{mix}.{name}.weight": (d, d) for name in ("receptance", "key", "value", "output")}
        for name, rank in (("w", "decay"), ("a", "rate"), ("g", "gate"), ("v", "value")):
            if name != "v" or i > 0:
                size = SIZES[f"{rank}_rank"]
                shapes |= {f"{mix}.{name}1": (d, size), f"{mix}.{name}2": (size, d)}
                shapes |= {} if name == "g" else {f"{mix}.{name}0": (1, 1, d)}
        shapes |= {f"{mix}.k_k": (1, 1, d), f"{mix}.k_a": (1, 1, d), f"{mix}.r_k": (d // n, n)}
        shapes |= {f"{layer}.ffn.x_k": (1, 1, d), f"{layer}.ffn.key.weight": (f, d)}
        shapes |= {f"{layer}.ffn.value.weight": (d, f)}
    return {name: weights(name, shape) for name, shape in shapes.items()}


def _norms(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (d,), f"{name}.bias": (d,)}


def main() -> None:
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
    import torch
    from rwkv.model import RWKV

    with tempfile.TemporaryDirectory() as folder:
        torch.save({name: torch.from_numpy(value) for name, value in tensors().items()}, f"{folder}/model.pth")
        model = RWKV(f"{folder}/model", "cpu fp32")
        logits = [model.forward(row.tolist(), None, full_output=True)[0].numpy() for row in rows()]
    about = dict(command="python -m tests.families.rwkv7_peer", rwkv="0.8.32", torch=torch.__version__)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, about=np.array(json.dumps(about)), logits=np.concatenate(logits))


if __name__ == "__main__":
    main()
