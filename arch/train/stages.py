"""What a mesh with stages asks of a run, that layers and rows divide; its schedule, and how long its stages idle."""

from typing import Any

from jax.sharding import AbstractMesh, Mesh

from arch.sharding import pipeline
from arch.train.mixtures import stacks


def must_divide(model_cfg: Any, num_rows: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError unless the repeated layers of each stack split into stages, and rows into its micro-batches."""
    every = stacks(model_cfg)
    for name, layers in every.items():
        if len(every) > 1 and layers.pipeline.schedule == "1f1b" and pipeline.stages(mesh) > 1:
            raise ValueError(f"model.{name}.pipeline.schedule='1f1b' must be 'gpipe' in a model of {len(every)} stacks")
        try:
            pipeline.must_divide(layers.pipeline, layers.repeats, num_rows, mesh)
        except ValueError as error:
            raise ValueError(f"model.{name}: {error}") from None


def must_be_one(mesh: Mesh | AbstractMesh, what: str) -> None:
    """Raises ValueError on a mesh with stages: text is made through one layer after the other."""
    if (size := pipeline.stages(mesh)) > 1:
        raise ValueError(f"mesh.stage={size} must be 1 with {what}: a token passes all layers before the next one")


def one_each(model_cfg: Any) -> Any:
    """The model with as many micro-batches as stages, which takes as few rows as the mesh has shards of a batch."""
    plain = lambda layers: layers.replace(pipeline=layers.pipeline.replace(micro_batches=0))
    return model_cfg.replace(**{name: plain(layers) for name, layers in stacks(model_cfg).items()})


def in_turns(model_cfg: Any, mesh: Mesh | AbstractMesh | None = None) -> bool:
    """Whether stages turn between forward and backward (1F1B), on the mesh of `jax.set_mesh` unless given."""
    return pipeline.stages(mesh) > 1 and any(each.pipeline.schedule == "1f1b" for each in stacks(model_cfg).values())


def bubble(model_cfg: Any, mesh: Mesh | AbstractMesh) -> float:
    """The share of a step's time for which a stage idles: of two stacks the larger share; 0 without stages."""
    return max(layers.pipeline.bubble(pipeline.stages(mesh)) for layers in stacks(model_cfg).values())


def table(model_cfg: Any, mesh: Mesh | AbstractMesh) -> str:
    """Each stack's schedule and bubble, as Markdown; one line where there are no stages."""
    size = pipeline.stages(mesh)
    if size == 1:
        return "no stages: mesh.stage=1"
    rows = []
    for name, layers in stacks(model_cfg).items():
        how, period = layers.pipeline, len(layers.pattern)
        part = f"{layers.repeats // size // how.rounds * period} layers a part"
        kind = "GPipe" if how.rounds == 1 else f"circular, {how.rounds} rounds"
        kind = "1F1B" if how.schedule == "1f1b" else kind
        rows.append(f"| {name} | {kind} | {part} | {how.parts(size)} | {how.bubble(size):.1%} |")
    head = [f"| stack | schedule of {size} stages | layers | micro-batches | idle |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows])
