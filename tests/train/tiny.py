"""Tiny runs on a few kilobytes of text: a hybrid (Mamba, mixture of experts, attention), and one that compiles fast.

Tests of the road train them, in their own process or as `run.py --config=tests/train/tiny.py --config.data.path=TEXT`.
Sizes are distinct, and divisible by 8 where a mesh axis may split them.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import random
import sys

import jax

from arch.sharding import mesh as meshes
from arch.train import experiment, loop, setup
from arch.train import state as states

ROOT = pathlib.Path(__file__).parents[2]

MAMBA = dict(name="mamba", inner_dim=40, state_dim=3)
MOE = dict(name="moe", num_experts=3, top_k=2, hidden_dim=16)
ATTENTION = dict(name="attention", num_heads=8, head_dim=4)
MLP = dict(name="mlp", hidden_dim=16)

LAYERS = {
    "hybrid": dict(pattern=(dict(sublayers=(MAMBA, MOE)), dict(sublayers=(ATTENTION,))), repeats=2),
    "mlp": dict(pattern=(dict(sublayers=(MLP,), dropout=0.1),)),
}


def fields(arg: str = "") -> dict:
    """Ten steps, evaluated and saved every four; the argument is a key of LAYERS."""
    return dict(
        model=dict(name="decoder", vocab_size=264, embed_dim=24, layers=LAYERS[arg or "mlp"]),
        data=dict(piece_chars=17),
        optimizer=dict(learning_rate=0.01, warmup_steps=3),
        total_steps=10,
        batch_size=8,
        seq_len=29,
        log_every_steps=1,
        eval_every_steps=4,
        eval_batches=2,
        checkpoint_every_steps=4,
    )


def get_config(arg: str = ""):
    """For run.py."""
    return experiment.config_dict(**fields(arg))


def config(text, arg: str = "", **changes) -> experiment.Config:
    """The frozen config on this text, with these leaves changed (`**{'mesh.fsdp': 8}`)."""
    values = fields(arg)
    for path, value in ({"data.path": str(text)} | changes).items():
        *parents, last = path.split(".")
        node = values
        for key in parents:
            node[key] = dict(node.get(key, {}))
            node = node[key]
        node[last] = value
    return experiment.from_dict(values)


def write_text(file: pathlib.Path, num_words: int = 1500, seed: int = 0) -> pathlib.Path:
    """A text of random words that a model can learn a little of."""
    words = "all happy families are alike each unhappy family is unhappy in its own way".split()
    chosen = random.Random(seed).choices(words, k=num_words)
    file.write_text("\n".join(" ".join(chosen[i : i + 6]) for i in range(0, num_words, 6)))
    return file


def prepare(cfg: experiment.Config, workdir, devices=None) -> setup.Setup:
    """`setup.prepare` on these devices; the first one alone unless given."""
    mesh = meshes.make(cfg.mesh, jax.devices()[:1] if devices is None else devices)
    every = setup.prepare(cfg.replace(mesh=meshes.Config()), workdir)
    with jax.set_mesh(mesh):
        plan = states.plan(every.model, every.optimizer, mesh, every.plan.beside)
    return dataclasses.replace(every, cfg=every.cfg.replace(mesh=cfg.mesh), mesh=mesh, plan=plan)


def train(cfg: experiment.Config, workdir, devices=None) -> dict[str, float]:
    """Trains in this process."""
    return loop.train(prepare(cfg, workdir, devices), {})


def metrics(workdir) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def curve(workdir) -> list[tuple[int, str, float]]:
    """What a run computed, in the order in which it is written: (step, name, value), without times and sizes."""
    lines = [(line["step"], name, value) for line in metrics(workdir) for name, value in line.items()]
    return [point for point in lines if point[1].split("/")[0] in ("train", "moe", "eval")]


def losses(workdir) -> list[float]:
    """The training loss of each step."""
    return [value for _, name, value in curve(workdir) if name == "train/loss"]


def steps_in(workdir) -> list[int]:
    """The steps of a run's complete checkpoints."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return sorted(int(file.name) for file in folder.iterdir() if file.name.isdecimal())


@contextlib.contextmanager
def at_line(text: str, call):
    """Calls `call()` whenever the run logs a line that holds `text`."""

    class Watch(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                call()

    log, watch = logging.getLogger("arch"), Watch()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(watch)
    try:
        yield
    finally:
        log.removeHandler(watch)
        log.setLevel(level)


def command(text, workdir, arg: str = "mlp", *more: str) -> list[str]:
    """The run as a program of its own."""
    config = f"--config={ROOT / 'tests/train/tiny.py'}:{arg}"
    return [sys.executable, str(ROOT / "run.py"), config, f"--config.data.path={text}", f"--workdir={workdir}", *more]


def environment(cache, num_devices: int = 1) -> dict[str, str]:
    """The program's environment, with so many devices, in which nothing is compiled twice."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
