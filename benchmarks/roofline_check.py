"""The count that is read from a compiled step, beside XLA's own, beside that of scanned layers, beside the closed form.

python -m benchmarks.roofline_check dense 4 [scan] [closed_form]

A small model of one of `FAMILIES`, of so many periods, on a described v5e:2x4. XLA's count is true of operations that
stand one behind the other and run once, so the periods are compiled without a scan, and without what XLA's count takes
several times: prefetches to VMEM (counted where they begin and where they end) and collectives in parts beside other
work (each part counts whole). What is a loop nevertheless, products in parts, counts once on both sides. Arrays count
as the tiles they lie in. So does to XLA what is looked up, be it a single number, and here to us; `planned` is the
memory with what is looked up alone, as a plan has it. Kernels that declare no cost, which `arch/kernels/cost.py` tells,
are no FLOPs to XLA, and left out of ours here. `scan` is the count of the same periods scanned over that of them in a
row. `closed_form`, of the family moe, is `benchmarks/roofline.py` over the difference that the last layer makes. XLA
tells no received bytes. Needs libtpu, no TPU.
"""

import sys

from arch.families import bigbird, jamba, llama, mamba2_lm, mixtral, transformer
from arch.models import encoder_decoder
from arch.plan import loads
from arch.plan.program import count
from benchmarks import measure, roofline
from benchmarks import plan as planning

TOPOLOGY, WHOLE, WITH_EXPERTS, LENGTH = "v5e:2x4", dict(data=1, fsdp=8), dict(data=1, fsdp=2, expert=4), 256
WIDTHS = dict(embed_dim=512, vocab_size=2048)
DENSE = WIDTHS | dict(num_layers=1, num_heads=4, hidden_dim=1792)
GROUPED = DENSE | dict(num_kv_heads=2)
PERIOD = dict(num_layers=2, attention_period=2, attention_offset=1, expert_period=2, expert_offset=1, num_experts=8)
WIDE = dict(embed_dim=1024, vocab_size=4096, num_layers=1, num_heads=8, num_kv_heads=2, hidden_dim=3584)
FAMILIES = {
    "dense": (llama.compose(**GROUPED), WHOLE, LENGTH),
    "moe": (mixtral.compose(**WIDE), WITH_EXPERTS, LENGTH),
    "sparse": (bigbird.compose(**DENSE), WHOLE, 4 * LENGTH),
    "ssm": (mamba2_lm.compose(**WIDTHS, num_layers=1), WHOLE, LENGTH),
    "hybrid": (jamba.compose(**GROUPED | PERIOD), WITH_EXPERTS, LENGTH),
    "encoder_decoder": (transformer.compose(**DENSE), WHOLE, LENGTH),
}
"""(model of one period, mesh, tokens of a row)."""
ONCE = {"xla_tpu_enable_async_collective_fusion": False, "xla_vf_vmem_memory_space_assignment": False}
TOLD = ("products", "elementwise", "memory", "received")


def small(family: str, *, in_a_row: int = 1, repeats: int = 1):
    """A model of so many periods in a row, scanned over so often."""
    cfg, _, _ = FAMILIES[family]
    fields = ("encoder", "decoder") if isinstance(cfg, encoder_decoder.Config) else ("layers",)

    def grown(layers):
        return layers.replace(pattern=layers.pattern * in_a_row, repeats=repeats, remat="full")

    return cfg.replace(dtype="bfloat16", **{field: grown(getattr(cfg, field)) for field in fields})


def compiled(family: str, cfg):
    """(its step on the described chips, how many parameters it has)."""
    _, sizes, length = FAMILIES[family]
    program, parameters = planning.lowered(cfg, planning.described(TOPOLOGY, sizes), length=length)
    return program.compile(compiler_options=ONCE), parameters


def beside_xla(program) -> dict:
    """Our sums over XLA's, of all places of buffers and one trip of loops; FLOPs without what XLA takes for nothing."""
    cost, text = program.cost_analysis(), program.as_text()
    ops, planned = count.ops(text, tiles=True), count.ops(text)
    xla = dict(flops=cost["flops"] + cost.get("transcendentals", 0.0), memory=cost["bytes accessed"])
    known = [op for op in ops if not (op.kind == "custom-call" and "cost." in op.path)]
    flops = sum((op.products + op.elementwise) / op.trips for op in known if op.trips)
    once = lambda ops: sum(op.memory / op.trips for op in ops if op.trips)
    ours = dict(flops=flops, memory=once(ops))
    return dict(xla=xla, ours=ours, ratio=ratios(ours, xla), planned=once(planned))


def ratios(some: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """Of each number that both have."""
    return {name: round(some[name] / others[name], 4) for name in some if others.get(name)}


def sums(family: str, program) -> dict:
    """Those of a program by the rows that are there."""
    cfg, sizes, _ = FAMILIES[family]
    own = count.total(count.ops(program.as_text(), filled=loads.even_load(cfg, sizes.get("expert", 1))[0]))
    return {name: own[name] for name in TOLD}


def closed_form(parameters: int) -> dict:
    """The estimate of a layer of the mixture with so many."""
    cfg, sizes, length = FAMILIES["moe"]
    place = roofline.Place(1, length, sizes["fsdp"], sizes["expert"])
    ops = roofline.of_layer(cfg.layers.pattern[0], cfg.embed_dim, place)
    ops += [roofline.update(parameters, place)]
    fields = dict(products="flops", memory="memory", received="received")
    return {name: sum(getattr(op, field) for op in ops) for name, field in fields.items()}


def main(family: str, periods: str, *also: str) -> None:
    """Compiles, compares, and adds the row to benchmarks/results/roofline_check.json."""
    _, sizes, length = FAMILIES[family]
    number = int(periods)
    in_a_row, parameters = compiled(family, small(family, in_a_row=number))
    row = dict(topology=TOPOLOGY, mesh=sizes, length=length) | beside_xla(in_a_row)
    if "scan" in also:
        scanned, last = sums(family, compiled(family, small(family, repeats=number))[0]), sums(family, in_a_row)
        row |= dict(scan=dict(scanned=scanned, in_a_row=last, ratio=ratios(scanned, last)))
    if "closed_form" in also:
        fewer, before = compiled(family, small(family, in_a_row=number - 1))
        last, fewer = sums(family, in_a_row), sums(family, fewer)
        layer, closed = {name: last[name] - fewer[name] for name in TOLD}, closed_form(parameters - before)
        row |= dict(closed_form=dict(program=layer, closed=closed, ratio=ratios(closed, layer)))
    measure.add("roofline_check", (family, periods, *also), row)


if __name__ == "__main__":
    main(*sys.argv[1:])
