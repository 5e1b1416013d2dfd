"""How full and how often: what of a program depends on data, told from the config at an even load of experts.

XLA's text has places, not rows, and loops whose end is found as the program runs: the rounds of an exchange of experts'
rows, and the blocks of keys that a block of queries meets.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from arch.layers import stack
from arch.mixers import attention
from arch.ops.chunked_attention import CHUNK, MOST_CHUNKS, blocks_of
from arch.ops.patterns.schedule import schedule
from arch.plan.program import count
from arch.train.mixtures import mixtures


def even_load(model_cfg: Any, shards: int) -> tuple[float, int]:
    """(share of the places of a mixture's buffers that hold rows, rounds of the exchange) when all experts get as many.

    A shard sends k rows a token. In one exchange it has places, for each shard, for as many as could come: k a token,
    or one for each expert that it owns, where these are fewer (see `arch.sharding.exchange`); in rounds, for
    `round_factor` times an even load. Rounds are 0 where their number does not depend on the load.

    Raises:
      ValueError: the model's mixtures differ in these.
    """
    parts = {(part.num_experts, part.top_k, part.round_factor) for _, part in mixtures(model_cfg)}
    if shards == 1 or not parts:
        return 1.0, 0
    if len(parts) > 1:
        raise ValueError(f"mixtures must have one (num_experts, top_k, round_factor) to be counted, and not {parts}")
    ((num_experts, top_k, round_factor),) = parts
    if round_factor:
        rounds = math.ceil(1 / round_factor)
        return 1 / (round_factor * rounds), rounds
    return top_k / (shards * min(top_k, num_experts // shards)), 0


def trips(model_cfg: Any, length: int, rounds: int) -> count.Trips:
    """How often the loops run whose end is found as the program runs, by their path.

    Attention of long rows takes their blocks of queries in turn, each with the blocks of keys that it sees: so many on
    an average, over layers whose windows differ too.
    """
    blocks = [blocks_of(length, causal=part.causal, window=part.window) for part in _long(model_cfg, length)]
    loops = [schedule(each.lists, blocks=1)[-1] for each in blocks]
    seen = sum(len(loop.blocks) for loop in loops) / max(1, sum(len(loop.rows) for loop in loops))
    return lambda path: rounds if "/moe" in path else seen if "attention" in path else 0


def _long(model_cfg: Any, length: int) -> Iterator[attention.Config]:
    """The attention of each layer that works through blocks of keys one after the other."""
    for field in dataclasses.fields(model_cfg):
        layers = getattr(model_cfg, field.name)
        for layer in layers.blocks if isinstance(layers, stack.Config) else ():
            for part in layer.sublayers:
                if isinstance(part, attention.Config) and not part.sparse and length > CHUNK * MOST_CHUNKS:
                    if part.form(length, part.dropout) != "dense":
                        yield part
