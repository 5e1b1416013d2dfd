"""Trains the demo from nothing, seed by seed, and writes what came of it: bits a byte, seconds, and where they went.

    python -m benchmarks.demo [seeds]

Beside the model stand two order-3 Markov figures of the same text (`arch.data.markov`): held out, a smoothed model of
the training split; in sample, an entropy that no order-3 model can be below.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from arch.data import dataset, markov
from benchmarks import measure

COMMAND = "run.py", "--config=configs/demo.py"


def run(workdir: pathlib.Path, seed: int) -> dict:
    """One training of the demo in its own process: a row of figures."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *COMMAND, f"--workdir={workdir}", f"--config.seed={seed}"], check=True)
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    merged = {name: value for line in lines for name, value in line.items()}
    startup = "perf/startup_"
    phases = {name.removeprefix(startup): round(s, 1) for name, s in merged.items() if name.startswith(startup)}
    return {
        "seed": seed,
        "bits_per_byte": round(merged["eval/valid/bits_per_byte"], 4),
        "wall_seconds": round(seconds, 1),
        "steps": merged["step"],
        "tokens_per_second": round(float(np.median([x["perf/tokens_per_second"] for x in lines if "train/loss" in x]))),
    } | {f"startup_{name}": value for name, value in phases.items()}


def entropies(workdir: pathlib.Path) -> dict:
    """Order-3 Markov bits a byte of the text that a run was trained and evaluated on."""
    data = dataset.load(workdir / "data")
    train, valid = (_text(data, split) for split in ("train", "valid"))
    return {
        "order3_held_out": round(markov.held_out_bits(train, valid), 4),
        "order3_in_sample": round(markov.in_sample_bits(train, valid), 4),
        "train_bytes": len(train),
        "valid_bytes": len(valid),
    }


def _text(data: dataset.Tokenized, split: str) -> bytes:
    tokens = data.splits[split].tokens
    return data.tokenizer.decode(tokens[tokens != data.tokenizer.separator].tolist()).encode()


def main(seeds: int) -> None:
    """Trains so many seeds and writes benchmarks/results/demo-cpu.json."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            workdir = pathlib.Path(folder) / str(seed)
            rows.append(run(workdir, seed) | entropies(workdir))
    measure.write("demo", rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
