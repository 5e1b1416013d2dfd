"""The count that is read from a compiled step, beside XLA's own, beside that of scanned layers, beside the closed form.

python -m benchmarks.roofline_check 2 3 4

A small Mixtral on a described v5e:2x4. XLA's count is true of operations that stand one behind the other and run once,
so for `xla` so many layers are compiled without a scan, and without what XLA's count takes several times: prefetches
to VMEM (counted where they begin and where they end) and collectives in parts beside other work (each part counts
whole). Rows that are looked up count there as the tiles they lie in, as XLA does it. `scan` is of the programs as they
are, four layers scanned over the same four in a row. `closed_form` is `benchmarks/roofline.py` over the difference that
one layer makes. XLA tells no received bytes. Needs libtpu, no TPU.
"""

import json
import sys

from arch.families import mixtral
from arch.models import decoder
from arch.plan import loads
from arch.plan.program import count
from benchmarks import measure, roofline
from benchmarks import plan as planning

TOPOLOGY, SIZES, LENGTH = "v5e:2x4", dict(data=1, fsdp=2, expert=4), 256
MODEL = dict(embed_dim=1024, num_layers=1, num_heads=8, num_kv_heads=2, hidden_dim=3584, vocab_size=4096)
ONCE = {"xla_tpu_enable_async_collective_fusion": False, "xla_vf_vmem_memory_space_assignment": False}


def small(*, pattern: int = 1, repeats: int = 1) -> decoder.Config:
    """A Mixtral of so many layers in a row, scanned over so often."""
    cfg = mixtral.compose(**MODEL)
    layers = cfg.layers.replace(pattern=cfg.layers.pattern * pattern, repeats=repeats, remat="full")
    return cfg.replace(dtype="bfloat16", layers=layers)


def compiled(cfg: decoder.Config, **options):
    """(its step on the described chips, how many parameters it has)."""
    program, parameters = planning.lowered(cfg, planning.described(TOPOLOGY, SIZES), length=LENGTH)
    return program.compile(compiler_options=options), parameters


def beside_xla(layers: int) -> dict:
    """Our sums over XLA's."""
    program, _ = compiled(small(pattern=layers), **ONCE)
    cost, own = program.cost_analysis(), count.total(count.ops(program.as_text(), tiles=True))
    xla = dict(flops=cost["flops"] + cost["transcendentals"], memory=cost["bytes accessed"])
    ours = dict(flops=own["products"] + own["elementwise"], memory=own["memory"])
    return dict(layers=layers, xla=xla, ours=ours, ratio=ratios(ours, xla))


def ratios(some: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """Of each number that both have."""
    return {name: round(some[name] / others[name], 4) for name in some if name in others}


def sums(cfg: decoder.Config) -> tuple[dict, int]:
    """(those of the program as it is, by the rows that are there, parameters)."""
    program, parameters = compiled(cfg)
    own = count.total(count.ops(program.as_text(), filled=loads.even_load(cfg, SIZES["expert"])[0]))
    return {name: own[name] for name in ("products", "elementwise", "memory", "received")}, parameters


def closed_form(parameters: int) -> dict:
    """The estimate of a layer with so many."""
    place = roofline.Place(1, LENGTH, SIZES["fsdp"], SIZES["expert"])
    ops = roofline.of_layer(small().layers.pattern[0], MODEL["embed_dim"], place)
    ops += [roofline.update(parameters, place)]
    fields = dict(products="flops", memory="memory", received="received")
    return {name: sum(getattr(op, field) for op in ops) for name, field in fields.items()}


def main(*layers: str) -> None:
    """Compiles, compares, and writes benchmarks/results/roofline_check.json."""
    (three, before), (four, after) = sums(small(pattern=3)), sums(small(pattern=4))
    scanned, _ = sums(small(repeats=4))
    layer, closed = {name: four[name] - three[name] for name in four}, closed_form(after - before)
    command = " ".join(["python -m benchmarks.roofline_check", *layers])
    out = dict(command=command, date=measure.today(), topology=TOPOLOGY, mesh=SIZES)
    out |= dict(length=LENGTH, model=MODEL) | measure.compilers()
    out |= dict(scan=dict(scanned=scanned, in_a_row=four, ratio=ratios(scanned, four)))
    out |= dict(closed_form=dict(program=layer, closed=closed, ratio=ratios(closed, layer)))
    out |= dict(xla=[beside_xla(int(number)) for number in layers])
    (measure.RESULTS / "roofline_check.json").write_text(json.dumps(out, indent=2) + "\n")
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
