"""How long a training step takes a TPU at least, from the program that XLA compiled for it; and beside a dense model.

    seconds >= max(sum over operations of max(products / peak, bytes / bandwidth), all bytes / bandwidth,
                   received bytes / links)

python -m benchmarks.least_time mixtral.mixtral_8x7b v5e:8x8 fsdp=8 expert=8

Williams et al., Roofline, 2009, doi 10.1145/1498765.1498785; the term of the links as in Pope et al., 2022, arXiv
2211.05102. Bytes are those of the main memory: what XLA keeps close to the processor is free. Messages and prefetches
run beside the rest, so they are in the second and third terms alone; arithmetic other than products is left out. The
step is the one of `benchmarks/plan.py`; its ragged products count by the rows that are there at an even load, all else
by the places of the buffers, which XLA's program works through. Rows that are looked up count as rows; `in_tiles` tells
what it is if each costs the eight rows of its tile, as XLA takes it for TPUs. Needs libtpu, no TPU.
"""

import math
import sys

from benchmarks import plan as planning  # first: it sets the environment

from jax.experimental import topologies

from arch.ffns import moe
from arch.models import decoder
from arch.ops.chunked_attention import blocks_of
from arch.ops.patterns.schedule import schedule
from arch.sharding import mesh as meshes
from benchmarks import measure, roofline
from benchmarks.program import count


def seconds(ops: list[count.Op], *, peak: float, memory: float, links: float) -> dict[str, float]:
    """Of operations one behind the other, of all traffic with the main memory, of the links, and of the step."""
    far = lambda op: (op.memory - op.near) / memory
    work = sum(max(op.products / peak, far(op)) for op in ops if not op.aside)
    traffic, carried = sum(map(far, ops)), sum(op.received for op in ops) / links
    return dict(work_s=work, memory_s=traffic, links_s=carried, step_s=max(work, traffic, carried))


def even_load(cfg: decoder.Config, shards: int) -> tuple[float, int]:
    """(share of the places of a mixture's buffers that hold rows, rounds of the exchange) when all experts get as many.

    A shard sends k rows a token. In one exchange it has places, for each shard, for as many as could come: k a token,
    or one for each expert that it owns, where these are fewer (see `arch.sharding.exchange`); in rounds, for
    `round_factor` times an even load. Rounds are 0 where their number does not depend on the load.
    """
    parts = [part for layer in cfg.layers.blocks for part in layer.sublayers if isinstance(part, moe.Config)]
    if shards == 1 or not parts:
        return 1.0, 0
    (part,) = set(parts)
    if part.round_factor:
        rounds = math.ceil(1 / part.round_factor)
        return 1 / (part.round_factor * rounds), rounds
    return part.top_k / (shards * min(part.top_k, part.num_experts // shards)), 0


def loops(cfg: decoder.Config, rounds: int) -> count.Trips:
    """How often the loops run whose end is found as the program runs: an exchange's, and those of causal attention.

    Attention of long rows takes their blocks of queries in turn, each with the blocks of keys that it sees: so many on
    an average.
    """
    (first, *_) = cfg.layers.blocks[0].sublayers
    blocks = blocks_of(planning.LENGTH, causal=first.causal, window=first.window)
    (*_, long) = schedule(blocks.lists, blocks=1)
    seen = len(long.blocks) / len(long.rows)
    return lambda path: rounds if "/moe/" in path else seen if "/attention/" in path else 0


def row(text: str, cfg: decoder.Config, parameters: int, chip: str, sizes: dict[str, int]) -> dict:
    """What a compiled step takes a chip, the estimate in closed form beside it, and the step's seconds."""
    share, rounds = even_load(cfg, sizes.get("expert", 1))
    how = dict(filled=share, trips=loops(cfg, rounds))
    ops, in_tiles = (count.ops(text, tiles=tiles, **how) for tiles in (False, True))
    place = roofline.Place(1, planning.LENGTH, sizes.get("fsdp", 1), sizes.get("expert", 1))
    closed = roofline.of_step(cfg, parameters, place)
    return dict(
        parameters=parameters,
        filled=share,
        rounds=rounds,
        **{name: round(value, 4) for name, value in seconds(ops, **roofline.CHIPS[chip]).items()},
        step_s_in_tiles=round(seconds(in_tiles, **roofline.CHIPS[chip])["step_s"], 4),
        program=count.total(ops),
        estimate={field: sum(getattr(op, field) for op in closed) for field in ("flops", "memory", "received")},
    )


def compiled(cfg: decoder.Config, topology: str, sizes: dict[str, int]) -> tuple[str, int]:
    """The text of the step's program for such a slice, and how many parameters the model has."""
    devices = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    program, parameters = planning.lowered(cfg, meshes.make(meshes.Config(**sizes), devices))
    return program.compile().as_text(), parameters


def main(name: str, topology: str, *axes: str) -> None:
    """Compiles both, and adds their rows to benchmarks/results/least_time.json."""
    chip, sizes = topology.split(":")[0], {axis: int(size) for axis, size in (pair.split("=") for pair in axes)}
    cfg, out = planning.preset(name), {}
    for which, model in {"moe": cfg, "dense": roofline.dense(cfg)}.items():
        text, parameters = compiled(model, topology, sizes)
        out[which] = row(text, model, parameters, chip, sizes)
        print(which, out[which], flush=True)
    ratio = round(out["moe"]["step_s"] / out["dense"]["step_s"], 3)
    measure.add("least_time", (name, topology, *axes), dict(chip=roofline.CHIPS[chip], mesh=sizes, ratio=ratio) | out)


if __name__ == "__main__":
    main(*sys.argv[1:])
