"""Training a 4-layer GPT and LLaMA in float32 on CPU, in turns with transformers: same weights, batches and AdamW.

    python -m benchmarks.throughput

ARCH_PEERS_PYTHON names the peers' Python (`make peers` makes `.venv-peers/bin/python`). A step begins with tokens in
memory and ends with its loss on the host. The best step of all rounds counts, the median stands beside it. Both sides'
losses are compared step by step; both have glibc's huge pages, as `run.py` has. What a step takes is set beside the
products of its matrices at the best speed that either side reaches at these sizes in the same run
(`arch.layers.flops`), and beside the parts of the step, each timed alone (`benchmarks/throughput_parts.py`). Nothing
else should run: transformers' threads wait for each other, so that it suffers more from company than we do.
"""

import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from arch import tree
from arch.families import gpt, llama
from arch.layers.flops import TRAINING
from arch.sharding import mesh as meshes
from arch.train import huge_pages
from arch.train import optimizer as optimizers
from arch.train import state as states
from arch.train.step import train_step
from arch.train.verify import peers_python
from arch.weights.export import export
from benchmarks import measure
from benchmarks.smollm2 import peak_mib
from benchmarks.throughput_parts import parts

ROOT = pathlib.Path(__file__).parents[1]
BATCH, LENGTH, VOCAB, WIDTH, LAYERS, HEADS = 8, 512, 1024, 256, 4, 4
ROUNDS, STEPS = 10, 4
"""How often each side has its turn, and the steps of a turn; the first round, in which all warms up, is not counted."""

SIZES = dict(vocab_size=VOCAB, embed_dim=WIDTH, num_layers=LAYERS, num_heads=HEADS)
MODELS = {"gpt": gpt.compose(**SIZES, length=LENGTH), "llama": llama.compose(**SIZES, hidden_dim=688)}
OPTIMIZER = optimizers.Config(learning_rate=1e-3, rate_shape="constant")
PRODUCTS = [(BATCH * LENGTH, WIDTH, WIDTH), (BATCH * LENGTH, WIDTH, 4 * WIDTH), (BATCH * LENGTH, 4 * WIDTH, WIDTH)]
"""(m, k, n) of the products whose speed is the machine's: a projection, and both of an MLP."""


def batch(number: int) -> dict:
    """Random tokens, one document a row."""
    rows = np.random.default_rng(number).integers(VOCAB, size=(BATCH, LENGTH + 1)).astype(np.int32)
    ones = np.ones((BATCH, LENGTH), np.int32)
    given = {"tokens": rows[:, :-1], "targets": rows[:, 1:], "weights": ones.astype(np.float32)}
    return given | {"segment_ids": ones, "positions": np.cumsum(ones, axis=1, dtype=np.int32) - 1}


class Ours:
    """A model here, with the step that a run compiles."""

    def __init__(self, cfg):
        model, mesh = cfg.make(), meshes.make(meshes.Config())
        optimizer = OPTIMIZER.make(1, lambda: states.axes(model))
        with jax.set_mesh(mesh):
            plan = states.plan(model, optimizer, mesh)
            self.state = states.init(model, optimizer, plan, jax.random.key(0))
            step = jax.jit(train_step(model, cfg, optimizer, plan.trainable, np.ones(VOCAB)), donate_argnums=0)
            start = time.perf_counter()
            self.run = step.lower(self.state, batch(0), jax.random.key(1)).compile()
        self.about = {
            "parameters": tree.count(self.state.params),
            "compile_s": round(time.perf_counter() - start, 1),
            "temporary_mib": round(self.run.memory_analysis().temp_size_in_bytes / 2**20),
        }

    def steps(self, first: int, end: int) -> list[dict]:
        """Trains on the batches of these numbers: seconds and loss of each step."""
        done = []
        for number in range(first, end):
            given = jax.tree.map(jnp.asarray, batch(number))
            start = time.perf_counter()
            self.state, metrics = self.run(self.state, given, jax.random.key(1))
            loss = float(metrics["loss"])
            jax.block_until_ready(self.state)
            done.append({"seconds": time.perf_counter() - start, "loss": loss})
        return done

    def peak(self) -> int:
        """MiB, of this process so far."""
        return peak_mib()


class Peer:
    """The same model in transformers, in a process of its own (`benchmarks/throughput_peer.py`)."""

    def __init__(self, folder: str):
        settings = {name: getattr(OPTIMIZER, name) for name in ("b1", "b2", "epsilon", "weight_decay", "clip_norm")}
        settings |= {"learning_rate": OPTIMIZER.learning_rate, "batch": BATCH, "length": LENGTH, "vocab": VOCAB}
        command = [peers_python(), str(ROOT / "benchmarks/throughput_peer.py"), folder, json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def steps(self, first: int, end: int) -> list[dict]:
        """As `Ours.steps`."""
        return self._answer(steps=[first, end])

    def peak(self) -> int:
        """MiB."""
        return self._answer(peak=True)

    def products(self) -> list[float]:
        """Seconds of each of `PRODUCTS`."""
        return self._answer(products=PRODUCTS)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self, **asked):
        if asked:
            print(json.dumps(asked), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self.process.wait()} before it answered")
        return json.loads(line)


def row(name: str, side, done: list[dict]) -> dict:
    """What one side did: its best and its median step."""
    seconds = [step["seconds"] for step in done[STEPS:]]
    best, median = min(seconds), statistics.median(seconds)
    return {
        "name": name,
        "best_tokens_per_second": round(BATCH * LENGTH / best),
        "median_tokens_per_second": round(BATCH * LENGTH / median),
        "best_s": round(best, 4),
        "median_s": round(median, 4),
        "peak_mib": side.peak(),
        **side.about,
    }


def compare(name: str, cfg) -> list[dict]:
    """A row for each side, one that sets them side by side and beside the machine's limit, and one of the parts."""
    ours = Ours(cfg)
    with tempfile.TemporaryDirectory() as scratch:
        export(cfg, ours.state.params, f"{scratch}/model")
        theirs = Peer(f"{scratch}/model")
    done: dict[str, list] = {"ours": [], "theirs": []}
    for number in range(ROUNDS):
        span = number * STEPS, (number + 1) * STEPS
        done["ours"] += ours.steps(*span)
        done["theirs"] += theirs.steps(*span)
    products = {"xla": [seconds_of_product(*sizes) for sizes in PRODUCTS], "torch": theirs.products()}
    rows = [row(f"{name} arch", ours, done["ours"]), row(f"{name} transformers", theirs, done["theirs"])]
    theirs.close()
    speed = {
        f"{side}_gflops": [round(2e-9 * m * k * n / t, 1) for (m, k, n), t in zip(PRODUCTS, seconds)]
        for side, seconds in products.items()
    }
    limit = max(max(values) for values in speed.values())
    gflop = TRAINING * BATCH * cfg.flops(LENGTH).required / 1e9
    losses = [[step["loss"] for step in done[side]] for side in ("ours", "theirs")]
    both = {
        "best_ratio": round(rows[0]["best_tokens_per_second"] / rows[1]["best_tokens_per_second"], 3),
        "median_ratio": round(rows[0]["median_tokens_per_second"] / rows[1]["median_tokens_per_second"], 3),
        "greatest_loss_difference": float(f"{max(abs(a - b) for a, b in zip(*losses)):.1e}"),
        "gflop_a_step": round(gflop, 1),
        **speed,
        "seconds_at_the_limit": round(gflop / limit, 4),
        "share_of_the_limit": round(gflop / limit / rows[0]["best_s"], 3),
    }
    alone = parts(cfg, OPTIMIZER, jax.tree.map(jnp.asarray, batch(0)))
    rest = rows[0]["best_s"] - sum(seconds for part, seconds in alone.items() if " of " not in part)
    alone = {part: round(seconds, 4) for part, seconds in (alone | {"rest": rest}).items()}
    return rows + [{"name": f"{name} arch / transformers", **both}, {"name": f"{name} parts in seconds", **alone}]


def seconds_of_product(m: int, k: int, n: int) -> float:
    """The least seconds of a product of [m k] and [k n] in XLA."""
    (found,) = measure.measure({"": jnp.matmul}, jnp.ones((m, k)), jnp.ones((k, n)), peer="", repeats=15)
    return found["least_ms"] / 1e3


if __name__ == "__main__":
    huge_pages.ask()
    settings = {"batch": BATCH, "length": LENGTH, "rounds": ROUNDS - 1, "steps": STEPS, **SIZES}
    measured = [line for name, cfg in MODELS.items() for line in compare(name, cfg)]
    measure.write("throughput", [{"name": "settings", **settings, "optimizer": "adamw", "dtype": "float32"}, *measured])
