"""Linear-time layers on CPU, forward and backward in float32: against peers, against the length, and decoding.

    python -m benchmarks.recurrence_scaling PART

PART, each of some minutes and kept by itself in benchmarks/results/recurrence_scaling-cpu.json, is one of
  2048, 16384     layers of width 256 beside PyTorch's (`benchmarks/recurrence_peer.py`), and the scans of Mamba and
                  Mamba-2 beside token scans and jax-linear-attention's, in turns
  length          each layer from 1k to 32k tokens, with the exponents of time and temporaries
  decoding        models of four layers, greedy tokens a second, beside transformers'; and a step behind 100 tokens and
                  behind 100 000, in turns
ARCH_PEERS_PYTHON names the peers' Python (`make peers` makes `.venv-peers/bin/python`). performer-pytorch 1.1.4 (with
einops, local-attention, axial-positional-embedding, hyper-connections) and jax-linear-attention 0.1.0 are read from
folders on PYTHONPATH, to which `pip install --no-deps --target FOLDER` brings them. A time is the least of all runs,
the median stands beside it. Both sides have glibc's huge pages, as `run.py` has.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jla.ops.chunked import mamba1

from arch.decode import generate
from arch.layers import block, stack
from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.mixers import (
    gated_delta_net,
    gated_linear_attention,
    hyena,
    linear_attention,
    mamba,
    mamba2,
    performer,
    retention,
    rg_lru,
    rwkv4,
    rwkv7,
    s4d,
)
from arch.models import decoder
from arch.ops.selective_scan import selective_scan, selective_scan_reference
from arch.ops.ssd import ssd
from arch.tree import unstack
from arch.train import huge_pages
from benchmarks import measure
from benchmarks import scan as selective
from benchmarks.turns import Compiled, Peer, alone, exponent, in_turns

NAME, WIDTH, HEADS, ROUNDS = "recurrence_scaling", 256, 8, 5
HEAD = dict(num_heads=HEADS, head_dim=WIDTH // HEADS)
LAYERS = {
    "mamba": mamba.Config(inner_dim=2 * WIDTH),
    "mamba2": mamba2.Config(num_heads=HEADS, head_dim=2 * WIDTH // HEADS),
    "rwkv4": rwkv4.Config(),
    "performer": performer.Config(**HEAD),
    "linear_attention": linear_attention.Config(**HEAD),
    "retention": retention.Config(**HEAD),
    "gated_linear_attention": gated_linear_attention.Config(**HEAD),
    "gated_delta_net": gated_delta_net.Config(num_heads=HEADS, key_dim=WIDTH // HEADS, value_dim=WIDTH // HEADS),
    "rwkv7": rwkv7.Config(**HEAD),
    "rg_lru": rg_lru.Config(inner_dim=WIDTH),
    "s4d": s4d.Config(),
    "hyena": hyena.Config(max_length=1 << 15),
}
PEERS = {2048: ("mamba", "mamba2", "rwkv4", "performer"), 16384: ("mamba2", "performer")}
"""At 16384 tokens a backward pass of transformers' loops of Mamba and RWKV, quadratic in the length, takes minutes."""
DECODED, MODEL = ("mamba", "mamba2", "rwkv4"), dict(layers=4, vocab=1024, tokens=64)


def layer(form: str, length: int) -> Compiled:
    """A layer's result of a row, and the gradients by its weights and the row."""
    module = LAYERS[form].make()
    context = Context(positions=jnp.arange(length)[None])
    x, dy = jax.random.normal(jax.random.key(0), (2, 1, length, WIDTH))
    params = unbox(
        jax.jit(module.init)(jax.random.key(1), x[:, :1], Context(positions=jnp.zeros((1, 1), int)))["params"]
    )
    run = measure.with_gradients(lambda params, x: module.apply({"params": params}, x, context).x, 2)
    return Compiled(run, params, x, dy)


def scans(length: int) -> dict[str, Compiled]:
    """Mamba's and Mamba-2's recurrences by themselves, with gradients."""
    x, delta, A, B, C, D = arrays = selective.inputs(1, length, 2 * WIDTH, 16)
    theirs = lambda x, delta, A, B, C, D: mamba1(C, B, x, delta, A, d=D)[0]
    forms = {"selective scan": selective_scan, "selective scan, by tokens": selective_scan_reference}
    forms = {name: functools.partial(_first, scan) for name, scan in forms.items()} | {"jax-linear-attention": theirs}
    found = {name: Compiled(measure.with_gradients(scan, 6), *arrays, x) for name, scan in forms.items()}
    x, B, C = x.reshape(1, length, HEADS, -1), *jax.random.normal(jax.random.key(1), (2, 1, length, 1, 128))
    arrays = x, delta[:, :, :HEADS], A[:HEADS, 0], B, C, D[:HEADS]
    for name, implementation in (("ssd", None), ("ssd, by tokens", "recurrent")):
        run = functools.partial(_first, functools.partial(ssd, implementation=implementation))
        found[name] = Compiled(measure.with_gradients(run, 6), *arrays, x)
    return found


def _first(function, *arrays):
    return function(*arrays)[0]


def beside_peers(length: int) -> dict:
    """Rows of layers and scans, and what one takes of another's time."""
    rows = {}
    for form in PEERS[length]:
        theirs = Peer("recurrence_peer.py", form=form, length=length, width=WIDTH, heads=HEADS)
        rows |= in_turns({form: layer(form, length), f"PyTorch {form}": theirs}, ROUNDS)
        print({name: row for name, row in rows.items() if form in name}, flush=True)
    rows |= in_turns(scans(length), ROUNDS)
    speed = lambda ours, theirs: round(rows[theirs]["least_ms"] / rows[ours]["least_ms"], 2)
    speeds = {f"{form} over PyTorch's": speed(form, f"PyTorch {form}") for form in PEERS[length]}
    for ours, theirs in (
        ("selective scan", "jax-linear-attention"),
        ("selective scan", "selective scan, by tokens"),
        ("ssd", "ssd, by tokens"),
    ):
        speeds[f"{ours} over {theirs}"] = speed(ours, theirs)
    scanned = [rows[name]["temporary_mib"] for name in ("selective scan", "selective scan, by tokens")]
    return {
        "length": length,
        "speeds": speeds,
        "temporaries over token scan's": round(scanned[0] / scanned[1], 3),
        "rows": rows,
    }


def against_length() -> dict:
    """Of each layer rows and exponents."""
    found = {}
    for form in LAYERS:
        rows = [{"length": 1 << power} | alone(layer(form, 1 << power)) for power in range(10, 16)]
        keys = {"time": "least_ms", "temporaries": "temporary_mib"}
        found[form] = {"exponents": {name: exponent(rows, key) for name, key in keys.items()}, "rows": rows}
        print(form, found[form]["exponents"], flush=True)
    return {"layers": found}


class Decoded:
    """A model of ours that writes tokens."""

    def __init__(self, form: str):
        blocks = block.Config(sublayers=(LAYERS[form],))
        layers = stack.Config(pattern=(blocks,), repeats=MODEL["layers"])
        self.model = decoder.Config(vocab_size=MODEL["vocab"], embed_dim=WIDTH, layers=layers).make()
        boxes = jax.jit(self.model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        self.params, self.about = unstack(unbox(boxes)), {}

    def turn(self) -> float:
        """Seconds in which the tokens follow a prompt of eight."""
        how = generate.Config(max_new_tokens=MODEL["tokens"], temperature=0.0)
        return measure.seconds(
            lambda: generate.generate(self.model, self.params, [[1] * 8], how, key=jax.random.key(0))
        )

    def step(self, position: int) -> Compiled:
        """A step behind so many tokens."""
        cache: Any = self.model.cfg.init_cache(1, position)

        def run(params, token, cache, place):
            return self.model.apply({"params": params}, token, Context(positions=place), cache)

        return Compiled(run, self.params, jnp.ones((1, 1), jnp.int32), cache, jnp.full((1, 1), position))


def decoding() -> dict:
    """Tokens a second of ours and transformers', and what a step takes behind few and many tokens."""
    found = {}
    for form in DECODED:
        ours = Decoded(form)
        theirs = Peer("recurrence_peer.py", form=form, width=WIDTH, heads=HEADS, decode=True, **MODEL)
        rows = in_turns({"ours": ours, "transformers": theirs}, ROUNDS)
        steps = in_turns({str(place): ours.step(place) for place in (100, 100_000)}, 50)
        found[form] = {
            "tokens_per_second": {
                side: round(1e3 * MODEL["tokens"] / row["least_ms"], 1) for side, row in rows.items()
            },
            "speed": round(rows["transformers"]["least_ms"] / rows["ours"]["least_ms"], 2),
            "late step over early": round(steps["100000"]["median_ms"] / steps["100"]["median_ms"], 3),
            "rows": rows | {f"step behind {place}": row for place, row in steps.items()},
        }
        print(form, found[form], flush=True)
    return {"model": MODEL, "models": found}


PARTS = {
    "2048": functools.partial(beside_peers, 2048),
    "16384": functools.partial(beside_peers, 16384),
    "length": against_length,
    "decoding": decoding,
}

if __name__ == "__main__":
    huge_pages.ask()
    about = {"width": WIDTH, "dtype": "float32", "device": measure.device()}
    measure.add(NAME, (sys.argv[1],), about | PARTS[sys.argv[1]](), platform="cpu")
