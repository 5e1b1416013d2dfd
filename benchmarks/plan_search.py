"""What `--plan_search` chooses beside the best of a whole list of meshes, each of them compiled once.

python -m benchmarks.plan_search llama.llama2_7b v5e:8x8 [tensor=4] [data=1]

The list: all meshes of (data, fsdp, expert, tensor) with `tensor` and `data` up to so many (`data=1`: every weight is
split over all devices that do not split its layer, ZeRO-3), a row of 4096 tokens a device, full rematerialisation; the
model otherwise as in `benchmarks/plan.py`. It proves something where it is longer than `COMPILES`. All are compiled by
libtpu, and each is kept as soon as it is there. `chosen` is what the search takes of this list: it compiles the first
`COMPILES` that fit in the order of the closed form; `best` is the fastest of all that fit, by the roofline of the
compiled programs. Needs libtpu, no TPU.
"""

import sys

from arch.plan import search, topology
from arch.plan import plan as plans
from arch.sharding import mesh as meshes
from benchmarks import measure
from benchmarks import plan as planning

COMPILES, MOST = 3, dict(tensor=4, data=1)
KEPT = ("fits", "mesh", "batch_size", "step_seconds", "tokens_per_second", "mfu_bound")


def listed(cfg, where: topology.Topology, **most: int) -> list[search.Candidate]:
    """The candidates with a row a device and full rematerialisation, of whose mesh these axes are at most so large."""
    every = search.candidates(cfg, where, rows=(1,), remats=("full",))
    return [each for each in every if all(getattr(each.cfg.mesh, axis) <= size for axis, size in most.items())]


def compiled(each: search.Candidate, where: topology.Topology) -> dict:
    """Of one compiled candidate what tells it from others."""
    found = plans.plan(each.cfg, where, decode=False)
    out = {name: found[name] for name in KEPT if name in found}
    out |= dict(closed_form=dict(total=each.estimate.total, seconds_per_token=each.seconds))
    train = found["train"]
    told = {name: train[name] for name in ("memory", "refused", "uncounted", "seconds", "bound") if name in train}
    return out | told | dict(compile_cpu_s=train["compile_cpu_s"])


def name_of(each: search.Candidate) -> str:
    """Its mesh."""
    sizes = {axis: getattr(each.cfg.mesh, axis) for axis in meshes.AXES}
    return " ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)


def verdict(every: list[search.Candidate], rows: dict[str, dict], where: topology.Topology) -> dict:
    """What the search tries and chooses, what is best of all, and the ratio of their rates."""
    tried = search.first(search.ranked(every, where), COMPILES, lambda each: rows[name_of(each)])
    chosen, _ = min(tried, key=lambda pair: search.rank(pair[1]))
    rates = {name: row["tokens_per_second"] for name, row in rows.items() if row["fits"]}
    best = max(rates, key=rates.get)
    out = dict(tried=[name_of(each) for each, _ in tried], chosen=name_of(chosen), best=best)
    return out | dict(ratio=round(rates[name_of(chosen)] / rates[best], 4))


def table(kept: dict[str, dict]) -> str:
    """What is kept of each command, a line each, for docs/planning.md."""
    lines = ["| `python -m benchmarks.plan_search` | meshes, that fit | tried | chosen | best | of its rate |"]
    lines += ["|---" * 6 + "|"]
    for command, row in kept.items():
        fit = sum(each["fits"] for each in row["rows"].values())
        lines.append(
            f"| `{command.removeprefix('python -m benchmarks.plan_search ')}` | {len(row['rows'])}, {fit} "
            f"| {len(row['tried'])} | `{row['chosen']}` | `{row['best']}` | {row['ratio']:.3f} |"
        )
    return "\n".join(lines)


def main(name: str, text: str, *options: str) -> None:
    """Compiles what is not kept, and adds the row to benchmarks/results/plan_search.json."""
    where, sizes = topology.parse(text), {key: int(value) for key, value in (pair.split("=") for pair in options)}
    cfg, arguments = planning.run(planning.preset(name), where.size, fsdp=where.size), (name, text, *options)
    every = listed(cfg, where, **MOST | sizes)
    rows = measure.kept("plan_search", arguments).get("rows", {})
    for each in every:
        if name_of(each) not in rows:
            rows[name_of(each)] = compiled(each, where)
            measure.add("plan_search", arguments, dict(rows=rows))
    row = verdict(every, rows, where) | dict(length=planning.LENGTH, compiles=COMPILES, rows=rows)
    measure.add("plan_search", arguments, row)


if __name__ == "__main__":
    main(*sys.argv[1:])
