"""What would make a run fit: single changes of its config, each reckoned by the closed form."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from arch.layers import stack
from arch.plan import closed_form
from arch.plan.lowering import Run
from arch.plan.topology import Topology
from arch.sharding import mesh as meshes
from arch.train import experiment
from arch.train import state as states

CHUNK = 512
"""Tokens of a device whose logits are held at a time, where the loss is told to take some at a time."""


def stacks(cfg: experiment.Config) -> list[str]:
    """The model's fields that hold layers."""
    fields = dataclasses.fields(cfg.model)
    return [field.name for field in fields if isinstance(getattr(cfg.model, field.name), stack.Config)]


def remat(cfg: experiment.Config) -> str:
    """The policy of all stacks; of several with '/' between them."""
    return "/".join(dict.fromkeys(getattr(cfg.model, name).remat for name in stacks(cfg)))


def with_remat(cfg: experiment.Config, policy: str) -> experiment.Config:
    """The run with all stacks rematerialised so."""
    layers = {name: getattr(cfg.model, name).replace(remat=policy) for name in stacks(cfg)}
    return cfg.replace(model=cfg.model.replace(**layers))


def override(path: str, value: Any) -> str:
    """As run.py takes it."""
    return f"--config.{path}={value}"


def changes(run: Run, where: Topology, *, scale: float = 1.0) -> list[dict[str, Any]]:
    """Of the changes that would fit by the closed form, or if none of all, the overrides and the bytes of each.

    Args:
      run: that does not fit.
      where: the chips.
      scale: how many times the memory of the closed form the run was found to need.
    """
    found = []
    for given, cfg in candidates(run, where, scale):
        if cfg.batch_size // cfg.micro_batches % meshes.batch_shards(meshes.abstract(cfg.mesh, where.size)) == 0:
            total = scale * reckoned(run, cfg, where)
            found.append(dict(overrides=given, total=round(total), fits=total <= where.chip.capacity))
    fitting = [row for row in found if row["fits"]]
    return fitting or sorted(found, key=lambda row: row["total"])


def reckoned(run: Run, cfg: experiment.Config, where: Topology) -> int:
    """Bytes of a device of another config of the run, which may have another mesh."""
    mesh = meshes.abstract(cfg.mesh, where.size)
    plan = states.elsewhere(run.plan, mesh)
    return closed_form.estimate(dataclasses.replace(run, cfg=cfg, mesh=mesh, plan=plan), where.chip.kind).total


def candidates(run: Run, where: Topology, scale: float) -> Iterator[tuple[list[str], experiment.Config]]:
    """(overrides, config) of each change, and of all together."""
    cfg, sizes = run.cfg, dict(run.mesh.shape)
    steps = []
    if remat(cfg) != "full":
        given = [override(f"model.{name}.remat", "full") for name in stacks(cfg)]
        steps.append((given, lambda cfg: with_remat(cfg, "full")))
    if sizes["data"] > where.slices:
        apart = dict(data=where.slices, fsdp=sizes["fsdp"] * sizes["data"] // where.slices)
        given = [override(f"mesh.{axis}", size) for axis, size in apart.items()]
        steps.append((given, lambda cfg: cfg.replace(mesh=cfg.mesh.replace(**apart))))
    if not cfg.loss.chunk_tokens:
        tokens = CHUNK * meshes.batch_shards(run.mesh)
        chunked = lambda cfg: cfg.replace(loss=cfg.loss.replace(chunk_tokens=tokens))
        steps.append(([override("loss.chunk_tokens", tokens)], chunked))
    if parts := _parts(run, where, scale):
        steps.append(([override("micro_batches", parts)], lambda cfg: cfg.replace(micro_batches=parts)))
    for given, change in steps:
        yield given, change(cfg)
    if len(steps) > 1:
        for _, change in steps:
            cfg = change(cfg)
        yield [text for given, _ in steps for text in given], cfg


def _parts(run: Run, where: Topology, scale: float) -> int:
    """The fewest parts of the batch with which the run fits, the most if it fits with none; 0 if there are none."""
    rows = run.cfg.batch_size // run.cfg.micro_batches // meshes.batch_shards(run.mesh)
    several = [run.cfg.micro_batches * parts for parts in range(2, rows + 1) if rows % parts == 0]
    fits = lambda parts: scale * reckoned(run, run.cfg.replace(micro_batches=parts), where) <= where.chip.capacity
    return next(filter(fits, several), several[-1] if several else 0)
