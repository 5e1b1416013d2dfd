"""Small cases of attention to a cache, and the reference that the kernels' results must agree with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.cache_attention import cache_attend

HEADS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """Attention of t new tokens a row, with HEADS heads, to what a cache holds.

    Attributes:
      lengths: tokens of each row with the new ones; a row of 0 has nothing, one of fewer than t ends in padding.
      dtype: of query and cache.
      kv_heads: of the cache.
      tokens: t.
      slots: of the cache.
      window: 0 for all.
      channels: of query and key; values have `value_channels`.
      value_channels: of values.
      sinks: whether there are.
      soft_cap: 0 for none.
      gain: of the queries; more than some gives extreme logits.
      seed: of the arrays.
    """

    lengths: tuple[int, ...]
    dtype: str = "float32"
    kv_heads: int = 2
    tokens: int = 1
    slots: int = 37
    window: int = 0
    channels: int = 8
    value_channels: int = 8
    sinks: bool = False
    soft_cap: float = 0.0
    gain: float = 1.0
    seed: int = 5

    def __str__(self):
        different = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return " ".join(f"{name}={value}" for name, value in different.items() if value != getattr(Case, name, None))

    def arrays(self) -> tuple:
        """query, key, value, place. Slots behind a row's last token hold 1e4, which must not be seen."""
        draw, b = np.random.default_rng(self.seed).normal, len(self.lengths)
        shapes = [(b, self.tokens, HEADS, self.channels)]
        shapes += [(b, self.kv_heads, self.slots, size) for size in (self.channels, self.value_channels)]
        query, key, value = (draw(size=shape) for shape in shapes)
        behind = (np.arange(self.slots) >= np.asarray(self.lengths)[:, None])[:, None, :, None]
        key, value = (np.where(behind, 1e4, array) for array in (key, value))
        place = np.maximum(np.asarray(self.lengths)[:, None] - self.tokens, 0) + np.arange(self.tokens)
        place = np.where(place < np.asarray(self.lengths)[:, None], place, -1)
        arrays = (jnp.asarray(array, self.dtype) for array in (self.gain * query, key, value))
        return *arrays, jnp.asarray(place, jnp.int32)

    def given(self) -> dict:
        """The keywords of `attend`."""
        sinks = jnp.asarray([0.5, -1.0, 2.0, 0.0]) if self.sinks else None
        return dict(window=self.window, soft_cap=self.soft_cap, sinks=sinks)

    def exact(self):
        """The reference, in float32."""
        *arrays, place = self.arrays()
        return cache_attend(*(array.astype(jnp.float32) for array in arrays), place, **self.given())


def agree(case: Case, attend: Callable) -> None:
    """Asserts that the values are the reference's.

    Weights are rounded to the arrays' dtype before they are multiplied: errors are a few units of the last place of the
    greatest number; a logit's, which grows with `gain`, are relative ones of its weight.
    """
    found = np.asarray(jax.jit(lambda *arrays: attend(*arrays, **case.given()))(*case.arrays()), np.float64)
    exact = np.asarray(case.exact(), np.float64)
    unit = max(float(jnp.finfo(case.dtype).eps), 2.0**-23 * case.gain)
    np.testing.assert_allclose(found, exact, rtol=0, atol=8 * unit * max(1.0, np.abs(exact).max()))
