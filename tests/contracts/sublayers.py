"""Every example of every sublayer, found by listing the folders, with the inputs and calls that contracts share."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import arch
from arch.layers.contract import Context, Memory, Output, SublayerConfig
from arch.layers.weight import trainable, unbox

ROWS, TOKENS, EMBED = 3, 21, 7  # 21 tokens are chunks of 1, of 3 and of 7
MEMORY_TOKENS, MEMORY_DIM = 5, 11
ROOT = pathlib.Path(arch.__file__).parent

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiles in a third of the time: contracts compile much and compute little."""


def files(folder: str) -> list[str]:
    """The names of the sublayers that a folder defines."""
    return sorted(file.stem for file in (ROOT / folder).glob("*.py") if not file.stem.startswith("_"))


def examples(folder: str) -> dict[str, SublayerConfig]:
    """All examples of a folder's files: {'attention_0': ...}."""
    found = {}
    for name in files(folder):
        module = importlib.import_module(f"arch.{folder}.{name}")
        found |= {f"{name}_{i}": cfg for i, cfg in enumerate(getattr(module, "EXAMPLES", ()))}
    return found


MIXERS, FFNS = examples("mixers"), examples("ffns")


def random_like(shapes, seed: int = 0, scale: float = 0.4):
    """Normal values for a tree of shapes: contracts hold for all parameters, and no gate is closed."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32), shapes)


def inputs(rows: int = ROWS, tokens: int = TOKENS, embed: int = EMBED, seed: int = 1) -> jax.Array:
    """[rows tokens embed] normal values."""
    return random_like(jax.ShapeDtypeStruct((rows, tokens, embed), jnp.float32), seed, 1.0)


def xla_flops(function, *arguments) -> float:
    """XLA's count of the operations of a function of (abstract) arrays, which is traced, not compiled."""
    lowered = jax.jit(function).lower(*arguments)
    assert "while" not in lowered.as_text(), "of a loop XLA counts one round"
    return lowered.cost_analysis().get("flops", 0.0)


def memory(rows: int = ROWS) -> Memory:
    """Something to read, of another width and with ragged rows."""
    valid = np.arange(MEMORY_TOKENS)[None] < 2 + np.arange(rows)[:, None]
    return Memory(inputs(rows, MEMORY_TOKENS, MEMORY_DIM, seed=2), jnp.asarray(valid))


def context(x: jax.Array, start=0, **fields) -> Context:
    """What the rows of x [b t ...] read: positions from `start` (a number or [b]), the memory, and the given fields.

    What the tokens were embedded as is x again, turned about; ids were not.
    """
    rows, tokens = x.shape[:2]
    positions = np.broadcast_to(np.asarray(start, np.int32), (rows,))[:, None] + np.arange(tokens, dtype=np.int32)
    embedding = x[..., ::-1] if x.ndim == 3 else None
    return Context(**{"positions": jnp.asarray(positions), "memory": memory(rows), "embedding": embedding} | fields)


class Case:
    """One sublayer with random parameters, and its call, compiled once a shape.

    Attributes:
      boxes: the declared weights as shapes.
      params: their values.
      traces: how often the call was traced, so compiled.
    """

    def __init__(self, cfg: SublayerConfig, embed: int = EMBED):
        self.cfg, self.embed, self.traces = cfg, embed, 0
        x = inputs(embed=embed)
        self.module = cfg.make()
        self.variables = jax.eval_shape(self.module.init, jax.random.key(0), x, context(x))
        self.boxes = self.variables.get("params", {})
        self.params = random_like(unbox(self.boxes))
        self.trainable = trainable(self.boxes)

        def call(params, x, context, cache=None) -> Output:
            self.traces += 1
            return self.apply(params, x, context, cache)

        self._call = jit(call)

    def apply(self, params, x, context, cache=None) -> Output:
        """The call, not compiled."""
        return self.module.apply({"params": params}, x, context, cache)

    def __call__(self, x, context, cache=None) -> Output:
        """The compiled call with the case's parameters."""
        return self._call(self.params, x, context, cache)

    @functools.cached_property
    def full(self) -> np.ndarray:
        """The result of one pass over `inputs()`."""
        x = inputs(embed=self.embed)
        return np.asarray(self(x, context(x)).x)

    def empty_cache(self, dtype=jnp.float32):
        """For ROWS rows of TOKENS tokens."""
        return self.cfg.init_cache(ROWS, TOKENS, self.embed, dtype)

    def chunks(self, sizes, cache=None) -> tuple[np.ndarray, object]:
        """(result, last cache) of `inputs()` read in chunks of these sizes."""
        x, start, parts = inputs(embed=self.embed), 0, []
        cache = self.empty_cache() if cache is None else cache
        for size in sizes:
            chunk = x[:, start : start + size]
            out = self(chunk, context(chunk, start), cache)
            parts.append(np.asarray(out.x))
            cache, start = out.cache, start + size
        return np.concatenate(parts, axis=1), cache


case_of = functools.cache(Case)


def holds(actual, expected, tolerance: float = 2e-5) -> bool:
    """Whether two results agree to so many of the largest expected magnitude (or of one)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return bool(np.max(np.abs(actual - expected)) <= tolerance * max(1.0, np.max(np.abs(expected))))
