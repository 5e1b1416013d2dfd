"""What a training step of a decoder takes a chip by its config: each op's products, memory traffic and messages.

    seconds ~ max(sum over ops of max(FLOPs / peak, bytes / bandwidth), received bytes / links)

python -m benchmarks.roofline mixtral.mixtral_8x7b v5e fsdp=8 expert=8

Williams et al., Roofline, 2009, doi 10.1145/1498765.1498785; the term of the links as in Pope et al., 2022, arXiv
2211.05102. Everything comes of the config and the mesh, nothing is compiled or measured; `arch.plan.program` counts
the same in the program that XLA makes and `benchmarks/roofline_check.py` compares: products are the same. Each op
here reads its operands and writes its result, which XLA may fuse with its neighbours': of Mixtral 8x7B the program's own
bound is the lower one (`least_time.json`). Assumed: bfloat16 products, float32 weights and moments (AdamW), full
rematerialisation, no `tensor`, experts with an even load.
"""

import dataclasses
import importlib
import math
import sys

import jax

from arch import tree
from arch.ffns import gated_mlp, moe
from arch.layers import block
from arch.layers.flops import unknown
from arch.mixers import attention
from arch.models import decoder
from arch.ops.chunked_attention import visited_pairs
from arch.plan import topology
from benchmarks import measure

CHIPS = {name: dict(peak=chip.peak, memory=chip.memory, links=chip.links) for name, chip in topology.CHIPS.items()}
"""Dense bfloat16 FLOP/s, bytes/s of memory, bytes/s of all links together."""
HALF, FULL = 2, 4
"""Bytes of a bfloat16 and of a float32."""
PRODUCTS = 4
"""Products for each one of the forward pass: itself, again for the backward pass, and the two gradients."""
EXCHANGES = 6
"""Of rows with the experts' chips: there and back, forward, again and backward."""
UPDATE = 10
"""Passes of the optimizer over a shard: weight, gradient and two moments read, three written, three norms."""


@dataclasses.dataclass(frozen=True)
class Op:
    """What a part of the step takes of one chip.

    Attributes:
      name: of the part.
      flops: of its matrix products.
      memory: bytes that it reads and writes.
      gathered, scattered, exchanged: bytes that the chip receives by all-gather, reduce-scatter and all-to-all.
      exchanges: how many of the latter.
    """

    name: str
    flops: float = 0.0
    memory: float = 0.0
    gathered: float = 0.0
    scattered: float = 0.0
    exchanged: float = 0.0
    exchanges: int = 0

    @property
    def received(self) -> float:
        """Bytes that the chip receives."""
        return self.gathered + self.scattered + self.exchanged


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a step runs: rows of so many tokens on each chip, weights split `fsdp` * `expert` ways."""

    rows: int
    length: int
    fsdp: int = 1
    expert: int = 1

    @property
    def tokens(self) -> int:
        """Of a chip."""
        return self.rows * self.length


def product(name: str, rows: int, inner: int, outer: int, matrices: int = 1) -> Op:
    """[rows inner] [inner outer] in training, where so many matrices [inner outer] are read: by name, and its cost."""
    arrays = rows * inner + matrices * inner * outer + rows * outer
    return Op(name, flops=PRODUCTS * 2 * rows * inner * outer, memory=PRODUCTS * HALF * arrays)


def shared(name: str, size: int, shards: int) -> Op:
    """Weights of so many entries, put together from their shards for each pass, and their gradient cut into shards."""
    part = HALF * size * (shards - 1) / shards
    return Op(name, memory=3 * HALF * size, gathered=2 * part, scattered=part)


def of_attention(cfg: attention.Config, d: int, place: Place) -> list[Op]:
    """Its pairs have two products forward, the same again, and five backward (S once more, dP, dV, dK, dQ)."""
    width, kv = cfg.num_heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    length = place.length
    dense = cfg.form(length, cfg.dropout) == "dense"
    met = length**2 if dense else visited_pairs(length, causal=cfg.causal, window=cfg.window)
    pairs = place.rows * met * cfg.num_heads
    return [
        product("query, key, value", place.tokens, d, width + 2 * kv),
        Op("pairs", flops=9 * 2 * pairs * cfg.head_dim, memory=9 * HALF * pairs),
        product("out", place.tokens, width, d),
        shared("attention weights", d * (2 * width + 2 * kv), place.fsdp * place.expert),
    ]


def of_gated_mlp(cfg: gated_mlp.Config, d: int, place: Place) -> list[Op]:
    """Three products and what is between them."""
    return [
        product("gate, up", place.tokens, d, 2 * cfg.hidden_dim),
        hidden(place.tokens, cfg.hidden_dim),
        product("down", place.tokens, cfg.hidden_dim, d),
        shared("ffn weights", 3 * d * cfg.hidden_dim, place.fsdp * place.expert),
    ]


def hidden(places: int, width: int) -> Op:
    """act(gate) * up: two arrays read and one written, the same again, and backward three read and two written."""
    return Op("hidden", memory=11 * HALF * places * width)


def of_moe(cfg: moe.Config, d: int, place: Place) -> list[Op]:
    """Rows travel to their expert and back, forward, again and backward; buffers have places for any skew."""
    n, here = place.expert, cfg.num_experts // place.expert
    rows, places = place.tokens * cfg.top_k, place.tokens * cfg.top_k
    if n > 1:
        places = n * place.tokens * min(cfg.top_k, here)
    exchanged = EXCHANGES * HALF * rows * d * (n - 1) / n
    passes = EXCHANGES * HALF * d * (4 * rows + (3 * places if n > 1 else 0))
    return [
        product("router", place.tokens, d, cfg.num_experts),
        Op("dispatch", memory=passes, exchanged=exchanged, exchanges=EXCHANGES if n > 1 else 0),
        product("experts' gate, up", rows, d, 2 * cfg.hidden_dim, here),
        hidden(places, cfg.hidden_dim),
        product("experts' down", rows, cfg.hidden_dim, d, here),
        shared("experts' weights", 3 * here * d * cfg.hidden_dim, place.fsdp),
    ]


PARTS = {attention.Config: of_attention, gated_mlp.Config: of_gated_mlp, moe.Config: of_moe}


def of_layer(layer: block.Config, d: int, place: Place) -> list[Op]:
    """The ops of a block. Raises UnknownFlops on a sublayer that PARTS does not hold."""
    ops = []
    for sublayer in layer.sublayers:
        if type(sublayer) not in PARTS:
            raise unknown(sublayer)
        stream = Op("norm, residual", memory=PRODUCTS * 5 * HALF * place.tokens * d)
        ops += [stream, *PARTS[type(sublayer)](sublayer, d, place)]
    return ops


def update(parameters: int, place: Place) -> Op:
    """Of the optimizer, over a chip's shard."""
    return Op("update", memory=UPDATE * FULL * parameters / (place.fsdp * place.expert))


def of_step(cfg: decoder.Config, parameters: int, place: Place) -> list[Op]:
    """All ops of a step, with the logits (three products: they are not computed again) and the optimizer's update."""
    d, chips = cfg.embed_dim, place.fsdp * place.expert
    head = product("logits", place.tokens, d, cfg.vocab_size)
    ops = [op for layer in cfg.layers.blocks for op in of_layer(layer, d, place)]
    ops += [dataclasses.replace(head, flops=head.flops * 3 / 4, memory=head.memory * 3 / 4)]
    ops += [shared("tables", cfg.vocab_size * d * (1 if cfg.tie_embeddings else 2), chips)]
    return ops + [update(parameters, place)]


def seconds(ops: list[Op], *, peak: float, memory: float, links: float) -> dict[str, float]:
    """Of the chip's own work, of what the links carry, and the step when both overlap."""
    work = sum(max(op.flops / peak, op.memory / memory) for op in ops)
    carried = sum(op.received for op in ops) / links
    return dict(work_s=work, links_s=carried, step_s=max(work, carried))


def dense(cfg: decoder.Config) -> decoder.Config:
    """The same decoder with a gated perceptron as wide as the experts of a token."""

    def instead(part):
        return gated_mlp.Config(hidden_dim=part.top_k * part.hidden_dim) if isinstance(part, moe.Config) else part

    def made(layer):
        return layer.replace(sublayers=tuple(map(instead, layer.sublayers)))

    return cfg.replace(layers=cfg.layers.replace(pattern=tuple(map(made, cfg.layers.pattern))))


def count(cfg: decoder.Config) -> int:
    """Parameters."""
    tokens = jax.ShapeDtypeStruct((1, 2), "int32")
    return tree.count(jax.eval_shape(cfg.make().init, jax.random.key(0), tokens)["params"])


def table(cfg: decoder.Config, chip: str, place: Place) -> dict:
    """Each op summed over the layers, the step's seconds, and those of the dense decoder of equal active FLOPs."""
    out = {}
    for name, model in {"moe": cfg, "dense": dense(cfg)}.items():
        parameters, sums = count(model), {}
        ops = of_step(model, parameters, place)
        for op in ops:
            sums.setdefault(op.name, []).append(op)
        fields = {"gflops": "flops", "memory_gb": "memory", "received_gb": "received"}
        total = lambda some, field: round(math.fsum(getattr(op, field) for op in some) / 1e9, 1)
        each = {op: {key: total(some, field) for key, field in fields.items()} for op, some in sums.items()}
        took = {key: round(value, 4) for key, value in seconds(ops, **CHIPS[chip]).items()}
        out[name] = dict(parameters=parameters) | took | dict(ops=each)
    return dict(ratio=round(out["moe"]["step_s"] / out["dense"]["step_s"], 3)) | out


def main(name: str, chip: str, *sizes: str) -> None:
    """Computes, and adds the table to benchmarks/results/roofline.json."""
    family, preset = name.split(".")
    cfg = importlib.import_module(f"arch.families.{family}").PRESETS[preset]
    place = Place(1, 4096, **{axis: int(size) for axis, size in (pair.split("=") for pair in sizes)})
    row = dict(chip=CHIPS[chip], place=dataclasses.asdict(place)) | table(cfg, chip, place)
    measure.add("roofline", (name, chip, *sizes), row)


if __name__ == "__main__":
    main(*sys.argv[1:])
