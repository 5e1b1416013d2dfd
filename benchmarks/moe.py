"""A Mixtral-shaped mixture of experts on CPU, forward and backward: its cost beside other ways to the same tokens.

    python -m benchmarks.moe

ARCH_PEERS_PYTHON names the peers' Python (`make peers` makes `.venv-peers/bin/python`). In one run, in turns:
  dense      the gated MLP of equal active FLOPs: k times as many hidden channels, no router
  experts    the same layer with 8 to 128 experts, k fixed: what the number of experts costs
  peer       transformers' Mixtral block in PyTorch (float32), eager and by torch's grouped product
Tokens are drawn once from a normal distribution, so that the loads of the random router are those of a run's start.
Both sides have glibc's huge pages, as `run.py` has.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np

from arch.ffns import gated_mlp, moe
from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.train import huge_pages
from arch.train.verify import peers_python
from benchmarks import measure

ROWS, LENGTH, DIM, HIDDEN, TOP_K = 8, 512, 256, 896, 2
EXPERTS = (8, 16, 32, 64, 128)
ROUNDS, RUNS = 15, 2
"""How often each has its turn, and the runs of a turn; the first turn is not counted."""


class Ours:
    """A sublayer's value, losses and gradients as one compiled function."""

    def __init__(self, cfg):
        module = cfg.make()
        self.x = jnp.asarray(np.random.default_rng(0).standard_normal((ROWS, LENGTH, DIM)), jnp.float32)
        context = Context(positions=jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH)))
        self.params = unbox(jax.jit(module.init)(jax.random.key(0), self.x, context)["params"])

        def run(params, x, dy):
            def call(params, x):
                out = module.apply({"params": params}, x, context)
                return out.x, sum(out.aux.losses.values(), start=jnp.zeros(()))

            out, vjp = jax.vjp(call, params, x)
            return out, vjp((dy, jnp.ones(())))

        self.run = jax.jit(run).lower(self.params, self.x, self.x).compile()
        self.about = {"temporary_mib": round(self.run.memory_analysis().temp_size_in_bytes / 2**20, 1)}

    def turn(self) -> list[float]:
        """Seconds of each run of a turn."""
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            jax.block_until_ready(self.run(self.params, self.x, self.x))
            seconds.append(time.perf_counter() - start)
        return seconds


class Peer:
    """transformers' block in a process of its own (`benchmarks/moe_peer.py`)."""

    def __init__(self, implementation: str):
        script = pathlib.Path(__file__).with_name("moe_peer.py")
        sizes = dict(rows=ROWS, length=LENGTH, dim=DIM, hidden=HIDDEN, experts=EXPERTS[0], top_k=TOP_K, runs=RUNS)
        command = [peers_python(), str(script), json.dumps(sizes | {"implementation": implementation})]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @functools.cached_property
    def about(self) -> dict:
        """Its versions: the process has begun when they are known."""
        return self._answer()

    def turn(self) -> list[float]:
        """As `Ours.turn`."""
        print(file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self.process.wait()} before it answered")
        return json.loads(line)


def mixture(num_experts: int) -> moe.Config:
    """Mixtral's layer."""
    return moe.Config(num_experts=num_experts, top_k=TOP_K, hidden_dim=HIDDEN)


def compare() -> list[dict]:
    """A row for each, with the ratio of its time to that of the mixture of 8 experts."""
    sides = {f"transformers, {name}": Peer(name) for name in ("eager", "grouped_mm")}  # begin while ours compile
    sides |= {f"arch, {number} experts": Ours(mixture(number)) for number in EXPERTS}
    sides["arch, dense of equal active FLOPs"] = Ours(gated_mlp.Config(hidden_dim=TOP_K * HIDDEN))
    about = {name: side.about for name, side in sides.items()}
    seconds = {name: [] for name in sides}
    for turn in range(ROUNDS):
        for name, side in sides.items():
            found = side.turn()
            seconds[name] += found if turn else []
    ours = f"arch, {EXPERTS[0]} experts"
    rows = []
    for name in sides:
        least, median = min(seconds[name]), statistics.median(seconds[name])
        ratios = {"least_ratio": least / min(seconds[ours]), "median_ratio": median / statistics.median(seconds[ours])}
        times = {"least_ms": round(1e3 * least, 1), "median_ms": round(1e3 * median, 1)}
        rows.append({"name": name} | times | {key: round(value, 2) for key, value in ratios.items()} | about[name])
    return rows


if __name__ == "__main__":
    huge_pages.ask()
    about = dict(tokens=ROWS * LENGTH, dim=DIM, hidden=HIDDEN, top_k=TOP_K, dtype="float32", cores=os.cpu_count())
    measure.write("moe", [{"name": "settings"} | about, *compare()])
