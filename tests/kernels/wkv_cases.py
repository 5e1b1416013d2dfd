"""Small cases of WKV, and the token scan that the kernels' results must agree with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.wkv import State, wkv


@dataclasses.dataclass(frozen=True)
class Case:
    """Averages of b rows of t tokens.

    Attributes:
      dtype: of key and value.
      length: t.
      channels: f.
      extras: which of 'state', 'reset', 'valid' there are.
      rows: b.
      gain: of the keys; more than some gives extreme exponents.
      seed: of the arrays.
    """

    dtype: str = "float32"
    length: int = 37
    channels: int = 11
    extras: tuple[str, ...] = ()
    rows: int = 2
    gain: float = 1.0
    seed: int = 7

    def __str__(self):
        different = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return " ".join(f"{name}={value}" for name, value in different.items() if value != getattr(Case, name, None))

    def arrays(self) -> dict:
        """What there is a gradient by, by name."""
        draw, (b, t, f) = np.random.default_rng(self.seed), (self.rows, self.length, self.channels)
        float32 = lambda array: jnp.asarray(array, jnp.float32)
        arrays = {
            "key": jnp.asarray(self.gain * draw.normal(size=(b, t, f)), self.dtype),
            "value": jnp.asarray(draw.normal(size=(b, t, f)), self.dtype),
            "decay": float32(draw.uniform(size=(f,))),
            "bonus": float32(draw.normal(size=(f,))),
        }
        if "state" in self.extras:
            numerator, maximum = (float32(draw.normal(size=(b, f))) for _ in range(2))
            arrays["state"] = State(numerator, float32(0.5 + draw.uniform(size=(b, f))), maximum)
        return arrays

    def borders(self) -> dict:
        """Resets and tokens that are not valid, where there are."""
        place, row = np.arange(self.length)[None], np.arange(self.rows)[:, None]
        known = {"reset": (place + row) % 11 == 4, "valid": place % 6 != row}
        return {name: jnp.asarray(known[name]) for name in known if name in self.extras}


def scan(key, value, decay, bonus, **given):
    """The token scan, in float32."""
    return wkv(key.astype(jnp.float32), value.astype(jnp.float32), decay, bonus, implementation="recurrent", **given)


def with_gradients(function: Callable, case: Case) -> dict:
    """y, last state and the gradients of a random sum of them, by name."""
    arrays, borders, draw = case.arrays(), case.borders(), np.random.default_rng(8)
    valid = borders.get("valid", jnp.ones((case.rows, case.length), bool))[..., None]
    dy = draw.normal(size=(case.rows, case.length, case.channels))
    sums = [jnp.asarray(draw.normal(size=(case.rows, case.channels)), jnp.float32) for _ in range(2)]

    def both(arrays):
        (y, state), pull = jax.vjp(lambda arrays: function(**arrays, **borders), arrays)
        cotangents = jnp.where(valid, dy, 0).astype(y.dtype), State(*sums, jnp.zeros_like(sums[0]))
        return {"y": jnp.where(valid, y, 0), "last": state, "d": pull(cotangents)[0]}

    return jax.jit(both)(arrays)


def agree(case: Case, average: Callable) -> None:
    """Asserts that values and gradients are those of the token scan.

    All is in float32 but y and the gradients of key and value, which are rounded to their dtype once: errors are a few
    units of the last place of the greatest number of each result, an exponent's relative ones of its exponential.
    """
    expected, found = with_gradients(scan, case), with_gradients(average, case)
    unit = max(float(jnp.finfo(case.dtype).eps), 2.0**-23 * case.gain)
    for (path, exact), mine in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        mine, exact = (np.asarray(array, np.float64) for array in (mine, exact))
        most = np.abs(exact).max(initial=1.0)
        np.testing.assert_allclose(mine, exact, rtol=0, atol=8 * most * unit, err_msg=jax.tree_util.keystr(path))
