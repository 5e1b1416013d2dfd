"""Makes the golden of the blocks that BigBird draws: those that transformers' attention meets as it trains.

    .venv-peers/bin/python -m tests.ops.patterns.bigbird_peer       (after `make peers`) writes goldens/bigbird.npz

`DRAWS` is also read by the test, which needs NumPy alone.
"""

import json
import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "bigbird.npz"
DRAWS = {
    "paper_4096": dict(tokens=4096, count=3, seed=0, size=64, draws=2, longest=4096),
    "paper_3072": dict(tokens=3072, count=2, seed=3, size=128, draws=1, longest=4096),
    "paper_1024": dict(tokens=1024, count=3, seed=1, size=64, draws=2, longest=4096),
    "paper_longest_1024": dict(tokens=1024, count=3, seed=2, size=64, draws=2, longest=1024),
    "ours_2048": dict(tokens=2048, count=3, seed=2, size=64, draws=2, longest=4096),
    "shortest": dict(tokens=36, count=3, seed=5, size=3, draws=3, longest=40),
    "one": dict(tokens=45, count=1, seed=7, size=5, draws=2, longest=64),
}
"""Arguments of `ReleasedBlocks`, and how many tokens the row has."""


def main() -> None:
    import torch
    import transformers
    from transformers.models.big_bird import modeling_big_bird as peer

    drawn = {}
    for name, draw in DRAWS.items():
        config = transformers.BigBirdConfig(
            hidden_size=draw["draws"], num_attention_heads=draw["draws"], num_random_blocks=draw["count"],
            block_size=draw["size"], max_position_embeddings=draw["longest"],
        )  # fmt: skip
        attention = peer.BigBirdBlockSparseAttention(config, draw["seed"]).train()

        def keep(queries, keys, blocks, *rest, name=name, make=attention._create_rand_mask_from_inputs):
            drawn[name] = blocks[0].numpy().astype(np.int8)
            return make(queries, keys, blocks, *rest)

        attention._create_rand_mask_from_inputs = keep
        ones = torch.ones(1, draw["tokens"])
        blocked, band, queries, keys = peer.BigBirdModel.create_masks_for_block_sparse_attn(ones, draw["size"])
        attention(torch.zeros(1, draw["tokens"], draw["draws"]), band, queries, keys, blocked, blocked)
    about = dict(command="python -m tests.ops.patterns.bigbird_peer", transformers=transformers.__version__)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, about=np.array(json.dumps(about)), **drawn)


if __name__ == "__main__":
    main()
