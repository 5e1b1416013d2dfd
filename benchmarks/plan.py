"""What a training step of a published model needs and takes of each TPU of a slice that is not here (`arch/plan`).

python -m benchmarks.plan mixtral.mixtral_8x7b v5e:8x8 fsdp=8 expert=8

Rows of 4096 tokens (`length=8192`), one a chip (`rows=2`); float32 weights and moments (AdamW), bfloat16 arithmetic,
full rematerialisation (`remat=dots`), the loss 512 tokens of a row at a time; a mixture's rows go to their experts in
rounds of 5/8 of an even load, so at such a load in two, with a quarter to spare. `round=0.4` makes them smaller,
`round=0` sends 512 tokens of a row at a time instead. An encoder learns masked tokens, an encoder-decoder cut spans.
`decode=1` compiles a step of decoding too. Needs libtpu, no TPU. What does not fit the chip, the compiler refuses and
says by how much. With `told` in front nothing is compiled, and the closed form beside what was kept is told anew.
`heap` is the room of all temporaries in a chip's main memory, `peak` the most that is held at a time, of arguments and
in VMEM too.
"""

import importlib
import sys

import jax

from arch import tree
from arch.heads import masked_lm
from arch.layers import token_loss
from arch.models import encoder, encoder_decoder
from arch.plan import closed_form, lowering, topology
from arch.plan import plan as plans
from arch.plan.plan import plan
from arch.sharding import mesh as meshes
from arch.tasks import masked_tokens, next_token, span_corruption
from arch.train import experiment
from benchmarks import measure

jax.config.update("jax_platforms", "cpu")

LENGTH, CHUNK, ROUND = 4096, 512, 0.625
STEPS = 1000


def preset(name: str, a_round: float = ROUND, remat: str = "full"):
    """A family's preset as it needs little memory, its mixtures' rounds of so many times an even load; 0: `CHUNK`."""
    dispatch = dict(round_factor=a_round) if a_round else dict(chunk_tokens=CHUNK)
    family, which = name.split(".")
    cfg = importlib.import_module(f"arch.families.{family}").PRESETS[which]

    def in_rounds(layer):
        sublayers = (part.replace(**dispatch) if part.label == "moe" else part for part in layer.sublayers)
        return layer.replace(sublayers=tuple(sublayers))

    def little(layers):
        parts = {part: tuple(map(in_rounds, getattr(layers, part))) for part in ("prefix", "pattern", "suffix")}
        return layers.replace(remat=remat, **parts)

    fields = ("encoder", "decoder") if isinstance(cfg, encoder_decoder.Config) else ("layers",)
    return cfg.replace(dtype="bfloat16", **{field: little(getattr(cfg, field)) for field in fields})


def run(model, size: int, *, length: int = LENGTH, rows: int = 1, **axes: int) -> experiment.Config:
    """The run of a model on so many devices."""
    task = next_token.Config()
    if isinstance(model, encoder.Config):
        task, model = masked_tokens.Config(), model.replace(head=masked_lm.Config())
    elif isinstance(model, encoder_decoder.Config):
        task = span_corruption.Config()
    if 0 < model.position.max_length < length:  # learned ones, as many as the rows have
        model = model.replace(position=model.position.replace(length=length + model.position.offset))
    mesh = meshes.Config(**{"data": 1} | axes)
    shards = meshes.batch_shards(meshes.abstract(mesh, size))
    return experiment.Config(
        model=model,
        task=task,
        total_steps=STEPS,
        batch_size=rows * shards,
        seq_len=length,
        loss=token_loss.Config(chunk_tokens=CHUNK * shards),
        mesh=mesh,
    )


def lowered(cfg, mesh, *, length: int = LENGTH):
    """The step of this model on the mesh with a row a device, lowered, and how many parameters it has."""
    sizes = {axis: size for axis, size in mesh.shape.items() if size > 1}
    prepared = lowering.prepare(run(cfg, mesh.size, length=length, **sizes), mesh)
    return lowering.train(prepared), tree.count(prepared.plan.abstract.params)


def described(text: str, sizes: dict[str, int]):
    """The mesh of a slice that is not here."""
    return meshes.make(meshes.Config(**{"data": 1} | sizes), topology.devices(topology.parse(text)))


def table(rows: dict[str, dict]) -> str:
    """What is kept of each command, a line each, for docs/planning.md."""
    told = "parameters", "peak GiB, of", "heap MiB", "tokens/s", "MFU", "compiled in"
    lines = [f"| {' | '.join(['`python -m benchmarks.plan`', *told])} |", "|---" * (1 + len(told)) + "|"]
    for command, row in rows.items():
        arguments, sizes = command.removeprefix("python -m benchmarks.plan "), row["train"]["memory"]
        lines.append(
            f"| `{arguments}` | {row['parameters']['total'] / 1e9:,.1f} B "
            f"| {sizes['peak'] / 2**30:.2f}, {row['capacity'] / 2**30:.2f} | {_mib(sizes.get('heap'))} "
            f"| {row['tokens_per_second']:,.0f} | {100 * row['mfu_bound']:.1f} % | {row['train']['compile_cpu_s']} s |"
        )
    return "\n".join(lines)


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:,.0f}"


def main(*arguments: str) -> None:
    """Plans, and adds the row to benchmarks/results/plan.json."""
    told, (name, text, *options) = arguments[0] == "told", arguments[arguments[0] == "told" :]
    given = dict(pair.split("=") for pair in options)
    model = preset(name, float(given.pop("round", ROUND)), given.pop("remat", "full"))
    decode, where = bool(int(given.pop("decode", 0))), topology.parse(text)
    sizes = {option: int(value) for option, value in given.items()}
    cfg = run(model, where.size, **sizes)
    row = beside(measure.kept("plan", (name, text, *options)), cfg, where) if told else plan(cfg, where, decode=decode)
    measure.add("plan", (name, text, *options), dict(model=name) | row)


def beside(row: dict, cfg: experiment.Config, where: topology.Topology) -> dict:
    """The row with what is told of the run before anything is compiled."""
    prepared = lowering.prepare(cfg, plans.mesh_of(cfg, where))
    return row | plans.head(prepared, where, closed_form.estimate(prepared, where.chip.kind))


if __name__ == "__main__":
    main(*sys.argv[1:])
