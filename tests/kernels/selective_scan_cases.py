"""Small cases of the selective scan, and the equation as written, which the kernels' results must agree with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.selective_scan import selective_scan_reference


@dataclasses.dataclass(frozen=True)
class Case:
    """A scan of b rows of t tokens.

    Attributes:
      dtype: of x.
      length: t.
      channels: f.
      states: of a channel.
      extras: which of 'state', 'reset' there are.
      rows: b.
      gain: of delta; more than some forgets all.
      seed: of the arrays.
    """

    dtype: str = "float32"
    length: int = 37
    channels: int = 11
    states: int = 3
    extras: tuple[str, ...] = ()
    rows: int = 2
    gain: float = 1.0
    seed: int = 7

    def __str__(self):
        different = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return " ".join(f"{name}={value}" for name, value in different.items() if value != getattr(Case, name, None))

    def arrays(self) -> dict:
        """What there is a gradient by, by name."""
        draw = np.random.default_rng(self.seed)
        b, t, f, n = self.rows, self.length, self.channels, self.states
        arrays = {
            "x": jnp.asarray(draw.normal(size=(b, t, f)), self.dtype),
            "delta": self.gain * draw.uniform(size=(b, t, f)),
            "A": -draw.uniform(size=(f, n)),
            "B": draw.normal(size=(b, t, n)),
            "C": draw.normal(size=(b, t, n)),
            "D": draw.normal(size=(f,)),
        }
        if "state" in self.extras:
            arrays["state"] = draw.normal(size=(b, f, n))
        return {name: array if name == "x" else jnp.asarray(array, jnp.float32) for name, array in arrays.items()}

    def borders(self) -> dict:
        """Resets, where there are."""
        reset = (np.arange(self.length)[None] + np.arange(self.rows)[:, None]) % 11 == 4
        return {"reset": jnp.asarray(reset)} if "reset" in self.extras else {}


def reference(x, **given):
    """The equation as written, in float32."""
    return selective_scan_reference(x.astype(jnp.float32), **given)


def with_gradients(function: Callable, case: Case) -> dict:
    """y, last state and the gradients of a random sum of them, by name."""
    arrays, draw = case.arrays(), np.random.default_rng(8)
    dy = draw.normal(size=(case.rows, case.length, case.channels))
    d_state = draw.normal(size=(case.rows, case.channels, case.states))

    def both(arrays):
        (y, state), pull = jax.vjp(lambda arrays: function(**arrays, **case.borders()), arrays)
        (gradients,) = pull((jnp.asarray(dy, y.dtype), jnp.asarray(d_state, state.dtype)))
        return {"y": y, "last": state} | {f"d_{name}": gradient for name, gradient in gradients.items()}

    return jax.jit(both)(arrays)


def agree(case: Case, scan: Callable) -> None:
    """Asserts that values and gradients are those of the equation as written.

    All is in float32 but x, y and their gradients, which are rounded to their dtype once: errors are a few units of the
    last place of the greatest number of each result, more where the gradient of y is rounded before it is summed.
    """
    expected, found = with_gradients(reference, case), with_gradients(scan, case)
    unit = float(jnp.finfo(case.dtype).eps)
    for name, exact in expected.items():
        mine, exact = (np.asarray(array, np.float64) for array in (found[name], exact))
        most = np.abs(exact).max(initial=1.0)
        np.testing.assert_allclose(mine, exact, rtol=0, atol=8 * most * unit, err_msg=name)
