"""What routers are held to: drawn logits with ties, skew, empty experts and padding, and the comparison with loops."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.sublayers import jit

SHAPES = ((2, 11, 5),)  # each is compiled anew; rows of any length, zero too, come from `Case.lengths`
LOGITS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "ties": lambda rng, shape: rng.integers(0, 2, shape),
    "equal": lambda rng, shape: np.zeros(shape),
    "skewed": lambda rng, shape: rng.standard_normal(shape) + 4.0 * (np.arange(shape[-1]) == 1),
    "empty": lambda rng, shape: rng.standard_normal(shape) - 60.0 * (np.arange(shape[-1]) == 0),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Logits [b t e], and how many tokens of each row are real."""

    logits: np.ndarray
    lengths: tuple[int, ...]

    @property
    def real(self) -> np.ndarray:
        """[b t] which tokens are no padding."""
        return np.arange(self.logits.shape[1])[None] < np.asarray(self.lengths)[:, None]

    @property
    def p(self) -> np.ndarray:
        """[b t e] the softmax of the logits, in float64."""
        return softmax(self.logits)

    def rows(self):
        """Each row's number, logits of real tokens and probabilities of real tokens."""
        for row, n in enumerate(self.lengths):
            yield row, self.logits[row, :n].astype(float), self.p[row, :n]


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    powers = np.exp(x.astype(float) - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def make(kind: str, shape=SHAPES[-1], seed: int = 0, lengths=()) -> Case:
    """A case with logits of one of the kinds; all tokens are real unless lengths say otherwise."""
    logits = LOGITS[kind](np.random.default_rng(seed), shape).astype(np.float32)
    return Case(logits, tuple(lengths) or (shape[1],) * shape[0])


@st.composite
def cases(draw, shapes=SHAPES) -> Case:
    """Any of the shapes and kinds, with rows of any length, none included."""
    shape = draw(st.sampled_from(shapes))
    lengths = [draw(st.integers(0, shape[1])) for _ in range(shape[0])]
    return make(draw(st.sampled_from(sorted(LOGITS))), shape, draw(st.integers(0, 999)), lengths)


def held_to(*strategies, examples: int = 25, **named):
    """Runs a test on so many draws, the same ones each time."""
    fixed = settings(max_examples=examples, derandomize=True, database=None, deadline=None)
    return lambda test: fixed(given(*strategies, **named)(test))


@functools.cache
def compiled(route, **static):
    """The router with these options, compiled once a shape."""
    return jit(functools.partial(route, **static))


def call(route, case: Case, arrays=None, /, **static) -> types.SimpleNamespace:
    """What a router says to a case, as NumPy arrays; `arrays` are keyword arguments too, but not compiled in."""
    arrays = {name: jnp.asarray(value) for name, value in (arrays or {}).items()}
    return as_numpy(compiled(route, **static)(jnp.asarray(case.logits), jnp.asarray(case.real), **arrays))


def as_numpy(routing) -> types.SimpleNamespace:
    """The fields of a routing, as NumPy arrays."""
    fields = {field.name: getattr(routing, field.name) for field in dataclasses.fields(routing)}
    return types.SimpleNamespace(**jax.tree.map(np.asarray, fields))


def assert_pairs(routing, expected: list[list[dict[int, float]]], *, tolerance: float = 1e-5):
    """A TokenChoice's kept pairs and weights are the expected ones: for each row and real token, {expert: weight}."""
    for row, tokens in enumerate(expected):
        for t in range(routing.experts.shape[1]):
            kept = routing.kept[row, t]
            found = dict(zip(routing.experts[row, t][kept].tolist(), routing.weights[row, t][kept].tolist()))
            wanted = tokens[t] if t < len(tokens) else {}
            assert found.keys() == wanted.keys(), (row, t, found, wanted)
            for expert, weight in wanted.items():
                assert abs(found[expert] - weight) <= tolerance, (row, t, expert, found[expert], weight)
            assert kept.sum() == len(found), (row, t, "an expert twice")
    assert np.all(routing.weights[~routing.kept] == 0)


def order(scores: np.ndarray) -> list[int]:
    """The experts of one token from the best down; ties go to the lower number."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))
