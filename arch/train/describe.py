"""`--mode=describe`: what a run would be, told in seconds; nothing is compiled, allocated, read or written.

The model is traced on the mesh that the config names, whose devices need not be here; so a model of any size can be
looked at on a laptop.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from arch import config, tree
from arch.sharding import mesh as meshes
from arch.train import duration, experiment, implementations, memory, remembered, report, stages
from arch.train import state as states
from arch.train.utilization import utilization

GIB = 2**30


def describe(cfg: experiment.Config, overrides: Mapping[str, Any]) -> str:
    """The parameters, tokens, FLOPs, memory and config of a run, as Markdown.

    Args:
      cfg: of the run.
      overrides: the leaves that the command line changed, by path.

    Raises:
      ValueError: the config contradicts itself or its mesh.
    """
    cfg.task.must_suit(cfg.model, seq_len=cfg.seq_len)
    mesh = _mesh(cfg)
    resolved = cfg.resolve(lambda: cfg.batch_size)  # epochs, if there are some, change no shape
    model = cfg.model.make()
    optimizer = resolved.optimizer.make(resolved.total_steps, lambda: states.axes(model))
    plan = states.plan(model, optimizer, mesh, states.Beside(bool(cfg.ema.decay), cfg.first_loss_scale))
    steps = 0 if duration.unit(cfg, "total") == "epochs" else resolved.total_steps
    parts = {
        "Parameters": f"{report.parameter_table(plan)}\n\n{_counts(cfg, plan)}",
        "Tokens": _tokens(cfg, steps),
        "FLOPs": _flops(cfg, steps, mesh.size),
        f"Implementations on {jax.devices()[0].device_kind}": _implementations(cfg, mesh),
        "Pipeline": stages.table(cfg.model, mesh),
        "Remembered of a row, in decoding": remembered.table(cfg.model, cfg.seq_len),
        "Memory of a device, estimated": _memory(cfg, plan, mesh),
        "Config, * from the command line": "\n".join(_lines(config.to_dict(cfg), overrides)),
    }
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in parts.items())


def _mesh(cfg: experiment.Config) -> jax.sharding.AbstractMesh:
    """The mesh that the config names: of as many devices as its axes say, or as are here where one is left open."""
    sizes = [getattr(cfg.mesh, axis) for axis in meshes.AXES]
    known = math.prod(size for size in sizes if size != -1)
    here = len(jax.devices())
    mesh = meshes.abstract(cfg.mesh, here if -1 in sizes and here % known == 0 else known)
    if cfg.batch_size // cfg.micro_batches % meshes.batch_shards(mesh):
        rows = f"batch_size={cfg.batch_size} / micro_batches={cfg.micro_batches}"
        raise ValueError(f"{rows} must be a multiple of {meshes.BATCH_SHARDS} = {meshes.batch_shards(mesh)}")
    stages.must_divide(cfg.model, cfg.batch_size // cfg.micro_batches, mesh)
    meshes.must_split(cfg.seq_len, mesh)
    return mesh


def _counts(cfg: experiment.Config, plan: states.Plan) -> str:
    trained, others = tree.partition(plan.abstract.params, plan.trainable)
    total = tree.count(plan.abstract.params)
    counts = f"{tree.count(trained):,} trained, {tree.count(others):,} not trained"
    idle = cfg.model.idle_parameters() if hasattr(cfg.model, "idle_parameters") else 0
    return f"{counts}; a token meets {total - idle:,} of {total:,}"


def _tokens(cfg: experiment.Config, steps: int) -> str:
    step = f"{cfg.batch_size:,} rows of {cfg.seq_len:,} tokens a step"
    if not steps:
        return f"{step}; {cfg.total_epochs:g} epochs of a text that is not read here"
    return f"{step}, {steps:,} steps: {steps * cfg.batch_size * cfg.seq_len:,} tokens"


def _flops(cfg: experiment.Config, steps: int, num_devices: int) -> str:
    devices = dict(device_kind=jax.devices()[0].device_kind, num_devices=num_devices)
    of = utilization(cfg.model, cfg.batch_size, cfg.task.lengths(cfg.seq_len), **devices)
    if not of.step_flops:
        return of.formula
    lines = [f"{of.step_flops / (cfg.batch_size * cfg.seq_len):.4g} a token, forward and backward"]
    if steps:
        lines.append(f"{of.step_flops * steps:.4g} the run")
    return "\n".join([*lines, of.formula])


def _implementations(cfg: experiment.Config, mesh) -> str:
    """What each sublayer takes for what it computes."""
    rows = implementations.table(cfg.model, implementations.traced(cfg.model, cfg.task.lengths(cfg.seq_len), mesh))
    lines = [f"| {label} | {operation or 'all'} | {by} |" for label, operation, by in rows]
    return "\n".join(["| sublayer | operation | by |", "|---|---|---|", *lines])


def _memory(cfg: experiment.Config, plan: states.Plan, mesh) -> str:
    shards = dict(batch_shards=meshes.batch_shards(mesh), weight_shards=meshes.weight_shards(mesh))
    sizes = memory.estimate(cfg, plan, **shards)
    names = ("parameters", "optimizer", "average", "gradients", "activations", "total")
    rows = [f"| {name} | {getattr(sizes, name) / GIB:.3f} |" for name in names]
    mesh_text = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    head = f"On a mesh of {mesh_text}, activations as if it split nothing of them but rows:"
    return "\n".join([head, "", "| what | GiB |", "|---|---|", *rows])


def _lines(value: Any, overrides: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Each leaf of a config's dict: `* model.layers.pattern[0].sublayers[0].num_heads = 4`."""
    if isinstance(value, Mapping):
        for key, leaf in value.items():
            yield from _lines(leaf, overrides, f"{path}.{key}" if path else key)
    elif isinstance(value, tuple) and any(isinstance(leaf, Mapping) for leaf in value):
        for i, leaf in enumerate(value):
            yield from _lines(leaf, overrides, f"{path}[{i}]")
    else:
        given = any(path == name or path.startswith((f"{name}.", f"{name}[")) for name in overrides)
        yield f"{'*' if given else ' '} {path} = {value!r}"
