"""The plan of a run: what its step would need and take on chips that are not here, as data and as text.

On TPUs it is read from the programs that libtpu compiles for them (`arch.plan.account`); on GPUs it is the closed form
alone (`arch.plan.closed_form`), which says so. Times are bounds: nothing was run.
"""

import json
import pathlib
import time
from typing import Any

from arch import tree
from arch.plan import account, advice, closed_form, lowering, topology
from arch.sharding import mesh as meshes
from arch.train import experiment

HOUR, BILLION = 3600.0, 1e9


def plan(
    cfg: experiment.Config, where: topology.Topology, *, price: float = 0.0, decode: bool = True
) -> dict[str, Any]:
    """The plan of a run.

    Args:
      cfg: of the run.
      where: it would run.
      price: of a chip for an hour, in any currency; 0 where it is not known.
      decode: whether to compile a step of decoding too, where the model decodes.

    Raises:
      ValueError: the topology does not exist, the mesh or the batch do not divide it, libtpu is absent.
    """
    run = lowering.prepare(cfg, mesh_of(cfg, where))
    estimate = closed_form.estimate(run, where.chip.kind)
    compiles = where.chip.is_tpu
    out = head(run, where, estimate) | dict(compiled=compiles)
    if compiles:
        start = time.process_time()
        out["train"] = account.of(lowering.train(run), run, where, length=cfg.seq_len)
        out["train"]["compile_cpu_s"] = round(time.process_time() - start)
        out["fits"] = "refused" not in out["train"]
        terms = out["train"].get("seconds")
    else:
        out["fits"] = estimate.total <= where.chip.capacity
        terms = estimate.seconds(where)
    if terms:
        out |= rates(run, where, estimate, terms["step_s"], price)
    if not out["fits"]:
        wanted = account.wanted(out["train"]["refused"]) if compiles else 0.0
        scale = max(1.0, max(wanted, where.chip.capacity) / estimate.total) if compiles else 1.0
        out["would_fit"] = advice.changes(run, where, scale=scale)
    if compiles and decode and lowering.decodes(cfg):
        start = time.process_time()
        out["decode"] = account.of(lowering.decode(run), run, where, length=1)
        out["decode"]["compile_cpu_s"] = round(time.process_time() - start)
        if seconds := out["decode"].get("seconds"):
            out["decode"]["tokens_per_second"] = cfg.batch_size / seconds["step_s"]
    return out


def mesh_of(cfg: experiment.Config, where: topology.Topology) -> Any:
    """The config's mesh over the topology's devices; abstract where they cannot be compiled for.

    Raises:
      ValueError: as `plan` does.
    """
    if where.chip.is_tpu:
        devices = topology.devices(where)
        return meshes.make(cfg.mesh, devices)
    mesh = meshes.abstract(cfg.mesh, where.size)
    if mesh.shape["data"] % where.slices:
        raise ValueError(f"mesh.data={mesh.shape['data']} must be a multiple of slices={where.slices} in --topology")
    return mesh


def head(run: lowering.Run, where: topology.Topology, estimate: closed_form.Estimate) -> dict[str, Any]:
    """What is known before anything is compiled."""
    cfg, memory = run.cfg, estimate.memory
    total = tree.count(run.plan.abstract.params)
    idle = cfg.model.idle_parameters() if hasattr(cfg.model, "idle_parameters") else 0
    return dict(
        topology=str(where),
        device=where.chip.kind,
        devices=where.size,
        mesh={axis: size for axis, size in run.mesh.shape.items() if size > 1},
        batch_size=cfg.batch_size,
        seq_len=cfg.seq_len,
        micro_batches=cfg.micro_batches,
        remat=advice.remat(cfg),
        parameters=dict(total=total, active=total - idle),
        capacity=round(where.chip.capacity),
        state=dict(weights=memory.parameters, optimizer=memory.optimizer, average=memory.average),
        closed_form=dict(
            gradients=memory.gradients,
            activations=memory.activations,
            gathered=estimate.gathered,
            total=estimate.total,
            flops=estimate.flops,
            bytes=estimate.traffic,
            received=estimate.received,
            seconds=estimate.seconds(where),
        ),
        versions=topology.versions(where),
    )


def rates(
    run: lowering.Run, where: topology.Topology, estimate: closed_form.Estimate, step: float, price: float
) -> dict:
    """What follows of the least time of a step: at most so many tokens a second, at least so much money."""
    cfg = run.cfg
    tokens = cfg.batch_size * sum(size for name, size in cfg.task.lengths(cfg.seq_len).items() if name != "predicted")
    out = dict(
        step_seconds=step,
        tokens_per_second=tokens / step,
        mfu_bound=estimate.required / (step * where.size * where.chip.peak),
    )
    if price:
        out["price_per_chip_hour"] = price
        out["cost_per_billion_tokens"] = price * where.chips * BILLION / tokens * step / HOUR
    return out


def write(found: dict[str, Any], text: str, workdir: str) -> None:
    """WORKDIR/plan.json, and the text as a page of TensorBoard's."""
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event

    folder = pathlib.Path(workdir)
    (folder / "tensorboard" / "plan").mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    events = EventsWriter(str(folder / "tensorboard" / "plan" / "events"))
    events.write_event(Event(step=0, wall_time=time.time(), summary=summary.text("plan", text)))
    events.close()
