"""Small cases of linear attention with a decay a head, and the token scan that the kernels' results must agree with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.linear_attention.recurrence import linear_attention


@dataclasses.dataclass(frozen=True)
class Case:
    """Attention of b rows of t tokens.

    Attributes:
      dtype: of query, key and value.
      length: t.
      heads: of the values.
      groups: heads of queries and keys.
      channels: of a query and a key.
      values: channels of a value.
      decay: the greatest of a token; 0 for none.
      extras: which of 'state', 'reset', 'valid', 'forget' there are; 'forget' is a decay that is infinite.
      rows: b.
      seed: of the arrays.
    """

    dtype: str = "float32"
    length: int = 37
    heads: int = 4
    groups: int = 4
    channels: int = 5
    values: int = 3
    decay: float = 0.5
    extras: tuple[str, ...] = ()
    rows: int = 2
    seed: int = 7

    def __str__(self):
        different = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return " ".join(f"{name}={value}" for name, value in different.items() if value != getattr(Case, name, None))

    def arrays(self) -> dict:
        """What there is a gradient by, by name."""
        draw = np.random.default_rng(self.seed)
        b, t, n, k = self.rows, self.length, self.heads, self.groups
        shapes = {"query": (b, t, k, self.channels), "key": (b, t, k, self.channels), "value": (b, t, n, self.values)}
        arrays = {name: jnp.asarray(draw.normal(size=shape), self.dtype) for name, shape in shapes.items()}
        if self.decay:
            decay = -self.decay * draw.uniform(size=(b, t, n))
            if "forget" in self.extras:
                decay = np.where(draw.uniform(size=(b, t, n)) < 0.1, -np.inf, decay)
            arrays["log_decay"] = jnp.asarray(decay, jnp.float32)
        if "state" in self.extras:
            arrays["state"] = jnp.asarray(draw.normal(size=(b, n, self.channels, self.values)), jnp.float32)
        return arrays

    def borders(self) -> dict:
        """Resets and tokens that are not valid, where there are."""
        place, row = np.arange(self.length)[None], np.arange(self.rows)[:, None]
        known = {"reset": (place + row) % 11 == 4, "valid": place % 5 != row}
        return {name: jnp.asarray(known[name]) for name in known if name in self.extras}


def scan(query, key, value, log_decay=None, **given):
    """The token scan, in float32."""
    share = value.shape[2] // query.shape[2]
    query, key, value = (array.astype(jnp.float32) for array in (query, key, value))
    query, key = (jnp.repeat(array, share, axis=2) for array in (query, key))
    decay = None if log_decay is None else log_decay[..., None]
    return linear_attention(query, key, value, decay, implementation="recurrent", **given)


def with_gradients(function: Callable, case: Case) -> dict:
    """out, last state and the gradients of a random sum of them, by name."""
    arrays, borders = case.arrays(), case.borders()
    valid = borders.get("valid", jnp.ones((case.rows, case.length), bool))[..., None, None]
    draw = np.random.default_rng(8)
    d_out = draw.normal(size=(case.rows, case.length, case.heads, case.values))
    d_state = draw.normal(size=(case.rows, case.heads, case.channels, case.values))

    def both(arrays):
        (out, state), pull = jax.vjp(lambda arrays: function(**arrays, **borders), arrays)
        gradients = pull((jnp.where(valid, d_out, 0).astype(out.dtype), jnp.asarray(d_state, state.dtype)))[0]
        return {"out": jnp.where(valid, out, 0), "last": state} | {f"d_{name}": x for name, x in gradients.items()}

    return jax.jit(both)(arrays)


def agree(case: Case, attend: Callable) -> None:
    """Asserts that values and gradients are those of the token scan.

    Operands of products are rounded to the arrays' dtype and sums are in float32: errors are a few units of the last
    place of the greatest number of each result.
    """
    expected, found = with_gradients(scan, case), with_gradients(attend, case)
    unit = float(jnp.finfo(case.dtype).eps)
    for name, exact in expected.items():
        mine, exact = (np.asarray(array, np.float64) for array in (found[name], exact))
        most = np.abs(exact).max(initial=1.0)
        np.testing.assert_allclose(mine, exact, rtol=0, atol=8 * most * unit, err_msg=name)
