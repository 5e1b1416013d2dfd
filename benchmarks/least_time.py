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

import sys

from arch.models import decoder
from arch.plan import loads
from arch.plan.program import count
from arch.plan.roofline import seconds
from benchmarks import measure, roofline
from benchmarks import plan as planning


def row(text: str, cfg: decoder.Config, parameters: int, chip: str, sizes: dict[str, int]) -> dict:
    """What a compiled step takes a chip, the estimate in closed form beside it, and the step's seconds."""
    share, rounds = loads.even_load(cfg, sizes.get("expert", 1))
    how = dict(filled=share, trips=loads.trips(cfg, planning.LENGTH, rounds))
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
    program, parameters = planning.lowered(cfg, planning.described(topology, sizes))
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
