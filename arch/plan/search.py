"""Which mesh, batch and rematerialisation are fastest on given chips: all are reckoned, the best few compiled.

Of each candidate the closed form tells memory and time (`arch.plan.closed_form`); what is far above the chip's memory
is dropped, the rest is ranked by seconds a token, and of the first ones libtpu compiles the train step. Where its bound
is the same, fewer rows a device go first, then what has the least of everything to wait for: the program may wait for
more than the bound. The compiler alone says what fits; of what does, the fastest by the roofline of its program wins,
and where two are within `NEAR` of each other the smaller batch. On GPUs the closed form alone decides.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from arch.plan import advice, closed_form, lowering
from arch.plan import plan as plans
from arch.plan.topology import Topology
from arch.sharding import mesh as meshes
from arch.train import experiment
from arch.train import state as states
from arch.train.mixtures import mixtures

log = logging.getLogger("arch")

ROWS = (1, 2, 4, 8, 16)
"""Rows of a device, together with the other devices that have them."""
REMATS = ("none", "dots", "full")
SPLIT_HEADS = 8
"""Devices that may share one layer's heads."""
SLACK = 1.25
"""How much of the chip's memory a candidate may take by the closed form, which is not exact."""
NEAR = 1.02
"""Rates of tokens within this factor count as the same."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A config that might be the fastest.

    Attributes:
      cfg: of the run.
      estimate: the closed form's.
      rows: of a device, together with the others that have them.
      seconds: a token, by the estimate.
      waits: the seconds of all that a token waits for, one behind the other.
    """

    cfg: experiment.Config
    estimate: closed_form.Estimate
    rows: int
    seconds: float
    waits: float

    def overrides(self, before: experiment.Config) -> list[str]:
        """What makes another config this one, as run.py takes it."""
        old, new = _searched(before), _searched(self.cfg)
        return [advice.override(path, value) for path, value in new.items() if old[path] != value]


def _searched(cfg) -> dict[str, Any]:
    """The leaves that are searched, by path."""
    axes = {f"mesh.{axis}": getattr(cfg.mesh, axis) for axis in meshes.AXES}
    policies = {f"model.{name}.remat": getattr(cfg.model, name).remat for name in advice.stacks(cfg)}
    return axes | {"batch_size": cfg.batch_size} | policies


def search(cfg: experiment.Config, where: Topology, *, price: float = 0.0, compiles: int = 3) -> dict[str, Any]:
    """The candidates that were tried, fastest first, and how many there were.

    Args:
      cfg: of the run; its mesh, batch size and rematerialisation are what is tried.
      where: the chips.
      price: of a chip for an hour; 0 where it is not known.
      compiles: how many that fit to compile, on TPUs.

    Returns:
      A dict with `considered`, `within` (the memory, by the closed form), and `tried`: for each its `overrides`,
      `closed_form_seconds_per_token`, and what `plan` told of it.

    Raises:
      ValueError: nothing fits, or as `plan` does.
    """
    every = list(candidates(cfg, where))
    within = ranked(every, where)
    log.info("%d of %d candidates may fit", len(within), len(every))

    def told(each: Candidate) -> dict[str, Any]:
        log.info("%s", " ".join(each.overrides(cfg)))
        found = plans.plan(each.cfg, where, price=price, decode=False)
        log.info("%s", _told(found))
        return found

    tried = [
        dict(overrides=each.overrides(cfg), closed_form_seconds_per_token=each.seconds, plan=found)
        for each, found in first(within, compiles, told)
    ]
    if not any(row["plan"]["fits"] for row in tried):
        least = min(every, key=lambda each: each.estimate.total)
        size = f"{least.estimate.total / 2**30:.1f} GiB a device, with {' '.join(least.overrides(cfg))}"
        compiled = f"of {len(within)} that might fit the first {len(tried)} were tried; " if tried else ""
        raise ValueError(
            f"--topology={where} has no mesh, batch and remat with which the run fits: {compiled}the least by the "
            f"closed form is {size}"
        )
    return dict(considered=len(every), within=len(within), tried=sorted(tried, key=lambda row: rank(row["plan"])))


def ranked(every: Iterable[Candidate], where: Topology) -> list[Candidate]:
    """Those that may fit, in the order in which they are tried."""
    slack = SLACK if where.chip.is_tpu else 1.0
    within = [each for each in every if each.estimate.total <= slack * where.chip.capacity]
    return sorted(within, key=lambda each: (_about(each.seconds), each.rows, each.waits))


def first(within: Iterable[Candidate], compiles: int, told: Callable) -> list[tuple[Candidate, dict[str, Any]]]:
    """(candidate, its plan by `told`) of the first ones, until so many fit or three times as many were tried."""
    tried, fitting = [], 0
    for each in itertools.islice(within, 3 * compiles):
        tried.append((each, told(each)))
        fitting += tried[-1][1]["fits"]
        if fitting == compiles:
            break
    return tried


def _told(found) -> str:
    if not found["fits"]:
        return found["train"]["refused"] if "train" in found else "does not fit"
    return f"fits; at most {found['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in found else "fits"


def rank(found: dict[str, Any]) -> tuple:
    """Of a plan, to sort by: what fits first, by rates of tokens in steps of NEAR, then by batch."""
    rate = found.get("tokens_per_second", 0.0) if found["fits"] else 0.0
    return _about(1 / rate) if rate else math.inf, found["batch_size"]


def _about(seconds: float) -> int:
    """The same number for times within NEAR of each other."""
    return math.floor(math.log(seconds) / math.log(NEAR))


def candidates(
    cfg: experiment.Config, where: Topology, *, rows: Iterable[int] = (), remats: Iterable[str] = ()
) -> Iterator[Candidate]:
    """All that divide the devices, the experts and, where they are split, the heads.

    Args:
      cfg: of the run.
      where: the chips.
      rows: of a device; ROWS if there are none.
      remats: policies; REMATS if there are none.
    """
    whole = dict.fromkeys(meshes.AXES, 1) | dict(data=where.size)
    mesh = meshes.abstract(meshes.Config(**whole), where.size)
    first = lowering.prepare(_on(cfg, where, whole, 1, REMATS[0]), mesh)
    for sizes in meshes_of(cfg, where):
        mesh = meshes.abstract(meshes.Config(**sizes), where.size)
        plan = states.elsewhere(first.plan, mesh)
        for count, policy in itertools.product(rows or ROWS, remats or REMATS):
            each = _on(cfg, where, sizes, count, policy)
            if each.batch_size // each.micro_batches % meshes.batch_shards(mesh) == 0:
                run = dataclasses.replace(first, cfg=each, mesh=mesh, plan=plan)
                estimate = closed_form.estimate(run, where.chip.kind)
                terms, tokens = estimate.seconds(where), each.batch_size * each.seq_len
                step = terms.pop("step_s")
                yield Candidate(each, estimate, count, step / tokens, sum(terms.values()) / tokens)


def meshes_of(cfg: experiment.Config, where: Topology) -> Iterator[dict[str, int]]:
    """Sizes of the axes (data, fsdp, expert, tensor) that multiply to the devices; other axes stay 1."""
    experts = math.gcd(*(part.num_experts for _, part in mixtures(cfg.model))) or 1
    for expert, tensor in itertools.product(_divisors(math.gcd(where.size, experts)), _divisors(SPLIT_HEADS)):
        left, rest = divmod(where.size, expert * tensor)
        for data in () if rest else _divisors(left):
            if data % where.slices == 0:
                yield dict.fromkeys(meshes.AXES, 1) | dict(data=data, fsdp=left // data, expert=expert, tensor=tensor)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _on(cfg, where, sizes, rows, policy) -> experiment.Config:
    batch = rows * cfg.micro_batches * where.size // sizes["tensor"]
    return advice.with_remat(cfg.replace(mesh=meshes.Config(**sizes), batch_size=batch), policy)


def text(found: dict[str, Any]) -> str:
    """The candidates that were tried as a table, and the winner's overrides to paste."""
    lines = [f"{found['considered']} candidates, {found['within']} within the memory by the closed form.", ""]
    lines += ["| overrides | peak GiB | tokens/s at most | MFU at most |", "|---|---|---|---|"]
    for row in found["tried"]:
        plan, told = row["plan"], " ".join(row["overrides"])
        if plan["fits"] and "tokens_per_second" in plan:
            peak = plan.get("train", {}).get("memory", {}).get("peak", plan["closed_form"]["total"]) / 2**30
            rate = f"{plan['tokens_per_second']:,.0f} | {100 * plan['mfu_bound']:.1f} %"
            lines.append(f"| `{told}` | {peak:.2f} | {rate} |")
        else:
            lines.append(f"| `{told}` | {'does not fit' if not plan['fits'] else 'fits, not counted'} | | |")
    return "\n".join([*lines, "", "The fastest that fits:", "", " ".join(found["tried"][0]["overrides"])])
