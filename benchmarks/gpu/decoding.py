"""Greedy decoding in bfloat16 of models with random weights, beside transformers on the same weights: tokens a second.

The time of a token is the difference between a long and a short continuation of the same prompts, so that reading the
prompts is not in it.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from arch import tree
from arch.decode import generate as decoding
from arch.layers.weight import unbox
from arch.weights.export import export
from benchmarks.gpu.peers import need
from benchmarks.gpu.speed import LLAMA
from benchmarks.gpu.speed import MODELS as SMALL
from benchmarks.gpu.training import MODELS as LARGE

PROMPT, NEW, ROUNDS = 512, 128, 5
SECONDS = 240


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A model that continues prompts.

    Attributes:
      name: of the model.
      cfg: of it.
      batch: prompts.
      peer: whether transformers has its turn.
    """

    name: str
    cfg: Any
    batch: int
    peer: bool = False

    def _model(self):
        return self.cfg.replace(dtype="bfloat16").make()

    def _init(self, key):
        params = unbox(self._model().init(key, jnp.zeros((1, 2), jnp.int32))["params"])
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def lowered(self, where: NamedSharding) -> Iterator[tuple[str, str, Callable]]:
        """('', '', what lowers the longer continuation for the device)."""
        on = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        abstract = jax.eval_shape(lambda key: tree.unstack(self._init(key)), jax.random.key(0))
        params, shape = jax.tree.map(on, abstract), (self.batch, PROMPT)
        tokens, valid = (jax.ShapeDtypeStruct(shape, dtype, sharding=where) for dtype in (jnp.int32, bool))

        def lower():
            with jax.set_mesh(where.mesh):
                key = jax.eval_shape(lambda: jax.random.key(0))
                return decoding.continued.lower(self._model(), _greedy(1 + NEW), (), params, tokens, valid, key)

        yield "", "", lower

    def run(self, *, seed: int, prompt: int = PROMPT, new: int = NEW, rounds: int = ROUNDS) -> list[dict]:
        """A row for each side."""
        prompts = np.random.default_rng(seed).integers(self.cfg.vocab_size, size=(self.batch, prompt)).tolist()
        params = jax.jit(self._init)(jax.random.key(seed))
        sides: dict[str, Callable] = {"own": self._ours(params)}
        rows = {"own": {}}
        if self.peer:
            try:
                sides["transformers"], rows["transformers"] = self._theirs(params), {}
            except ImportError as error:
                rows["transformers"] = {"missing": str(error)}
        ids = {name: side(prompts, 1 + new) for name, side in sides.items()}  # compiles
        for name, side in sides.items():
            rows[name] |= _speed(side, prompts, new, rounds) | {"same_tokens": ids[name] == ids["own"]}
        about = dict(model=self.name, batch=self.batch, prompt=prompt, new=new)
        return [about | dict(side=name) | row for name, row in rows.items()]

    def _ours(self, params) -> Callable:
        model = self._model()
        return lambda prompts, count: decoding.generate(model, params, prompts, _greedy(count), key=jax.random.key(0))

    def _theirs(self, params) -> Callable:
        torch, transformers = need("torch", "torch"), need("transformers", "transformers")
        with tempfile.TemporaryDirectory() as scratch:
            export(self.cfg, params, f"{scratch}/model", dtype="bfloat16")
            load = transformers.AutoModelForCausalLM.from_pretrained
            model = load(f"{scratch}/model", dtype=torch.bfloat16).eval()
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")

        def run(prompts, count):
            given = torch.tensor(prompts, device=model.device)
            how = dict(max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None)
            with torch.inference_mode():
                out = model.generate(given, attention_mask=torch.ones_like(given), **how)
            return out[:, given.shape[1] :].tolist()

        return run


def _greedy(count: int) -> decoding.Config:
    return decoding.Config(max_new_tokens=count, temperature=0.0)


def _speed(side: Callable, prompts: list, new: int, rounds: int) -> dict:
    """Medians of a round's seconds to the first token, and of what each further one took."""
    taken = []
    side(prompts, 1)
    for _ in range(rounds):
        marks = [time.perf_counter()]
        for count in (1, 1 + new):
            side(prompts, count)
            marks.append(time.perf_counter())
        taken.append((marks[1] - marks[0], marks[2] - marks[1]))
    short, long = (statistics.median(times) for times in zip(*taken))
    speed = len(prompts) * new / (long - short)
    return dict(first_token_ms=round(1e3 * short, 2), tokens_per_second=round(speed, 1), rounds=rounds)


CASES = [
    ("llama 124m", LLAMA, True),
    ("dense", LARGE["dense"], True),
    ("mamba 130m", SMALL["mamba 130m"], False),
    ("rwkv4 169m", SMALL["rwkv4 169m"], False),
]
PIECES = {
    f"{name}, batch {batch}": partial(Decoding, name, cfg, batch, peer)
    for name, cfg, peer in CASES
    for batch in (1, 32)
}
