"""What logging, the dashboard of mixtures, evaluations and checkpoints add to a step: medians, in turns.

    python -m benchmarks.overhead [rounds]

Every variant is a run of its own, of the same model on the same text, in one process; round by round each one takes a
block of BLOCK steps by the trainer's own loop. A row's `overhead` is the median over the rounds of its time by that of
the variant `against` in the same round, less one: what the machine does beside moves both. A checkpoint's block ends
when it is on the disk, so that what is written in the background counts too.

`statistics_off` leaves out what `arch.ops.routing.statistics` adds to the step, but the loads that balancing reads.
What the dashboard costs where a run logs, or evaluates, is told against the same run without it: no `moe/*` numbers,
alarm, history or images, no tables of an evaluation.
"""

import contextlib
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

import jax

from arch.ops.routing import statistics as routing
from arch.train import experiment, loop, report, setup
from arch.train.consent import Consent
from arch.train.interrupt import Interrupt
from arch.train.startup import Startup
from benchmarks import measure

BLOCK = 10
NEVER = 10**6
LAYER = dict(
    sublayers=(
        dict(name="attention", num_heads=4, head_dim=32),
        dict(name="moe", num_experts=8, top_k=2, hidden_dim=128),
    )
)
VARIANTS = {
    "nothing": {},
    "log_every_step": dict(log_every_steps=1),
    "checkpoint_every_10_steps": dict(checkpoint_every_steps=BLOCK),
    "log_and_checkpoint": dict(log_every_steps=1, checkpoint_every_steps=BLOCK),
    "histograms_every_10_steps": dict(histogram_every_steps=BLOCK),
    "statistics_off": {},
    "log_without_dashboard": dict(log_every_steps=1),
    "evaluate_without_dashboard": dict(eval_every_steps=BLOCK, eval_batches=2),
    "evaluate_every_10_steps": dict(eval_every_steps=BLOCK, eval_batches=2),
}
AGAINST = {
    "log_every_step": ("nothing", "log_without_dashboard"),
    "evaluate_every_10_steps": ("nothing", "evaluate_without_dashboard"),
}
"""What a variant is measured against; `nothing` unless it is here."""


class Silent:
    """In place of the alarm and the history of loads."""

    def heed(self, scalars):
        return {}

    def add(self, scalars):
        pass

    def image(self):
        return None


@contextlib.contextmanager
def without_dashboard():
    """Context in which nothing is made of the routers' statistics."""
    scalars, image = report.layer_scalars, report.load_image
    report.layer_scalars, report.load_image = (lambda stats: {}), (lambda stats: None)
    try:
        yield
    finally:
        report.layer_scalars, report.load_image = scalars, image


def config(text: pathlib.Path, **changes) -> experiment.Config:
    """Four layers of attention and mixtures of experts."""
    fields = dict(
        model=dict(name="decoder", vocab_size=264, embed_dim=128, layers=dict(pattern=(LAYER,), repeats=4)),
        data=dict(path=str(text)),
        total_steps=NEVER,
        batch_size=8,
        seq_len=128,
        log_every_steps=NEVER,
    )
    return experiment.from_dict(fields | changes)


def write_text(file: pathlib.Path) -> pathlib.Path:
    """300 kB of random words."""
    words = "all happy families are alike each unhappy family is unhappy in its own way".split()
    chosen = random.Random(0)
    file.write_text("\n".join(" ".join(chosen.choices(words, k=9)) for _ in range(6000)))
    return file


def begin(name: str, text: pathlib.Path, workdir: pathlib.Path, consent: Consent):
    """A run of a variant behind its first block, and its batches."""
    ready = setup.prepare(config(text, **VARIANTS[name]), workdir)
    run, sums = loop.Run(ready, {}, consent, Startup(), None), routing.sums
    if name.endswith("without_dashboard"):
        ready.__dict__["watched"] = None  # a cached property
        run.logger._alarm = run.logger._loads = Silent()
    if name == "statistics_off":
        routing.sums = lambda *args: {"expert_load": sums(*args)["expert_load"]}
    with jax.set_mesh(ready.mesh):
        batches = run.begin()
    routing.sums = sums
    block(name, run, batches)
    return run, batches


def block(name: str, run: loop.Run, batches) -> float:
    """Milliseconds a step of a variant's run, over a block."""
    start = time.perf_counter()
    dashboard = without_dashboard() if name.endswith("without_dashboard") else contextlib.nullcontext()
    with jax.set_mesh(run.setup.mesh), dashboard:
        for _ in range(BLOCK):
            run.advance(batches)
        run.state = run.guard.settle(run.state)
    run.checkpoints.wait()
    jax.block_until_ready(run.state)
    return 1e3 * (time.perf_counter() - start) / BLOCK


def main(rounds: int) -> None:
    """Writes benchmarks/results/overhead-cpu.json."""
    times = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, Interrupt() as interrupt, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        text, runs = write_text(folder / "text.txt"), {}
        for name in VARIANTS:
            runs[name] = begin(name, text, folder / name, Consent(interrupt))
            stack.callback(runs[name][0].close)
            stack.callback(runs[name][1].close)
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(block(name, *run))
    pairs = [(name, other) for name in VARIANTS for other in AGAINST.get(name, ("nothing",))]
    measure.write("overhead", [row(*pair, times) for pair in pairs])


def row(name: str, against: str, times: dict[str, list[float]]) -> dict:
    """What a variant costs more than another, round by round."""
    samples, ratios = times[name], [mine / other for mine, other in zip(times[name], times[against])]
    figures = dict(median_ms=round(statistics.median(samples), 3), least_ms=round(min(samples), 3))
    figures |= dict(overhead=round(statistics.median(ratios) - 1, 4), rounds=len(samples), steps_a_round=BLOCK)
    return dict(name=name, against=against) | figures | dict(load_average=round(os.getloadavg()[0], 1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 15)
