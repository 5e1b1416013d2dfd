"""A weight is declared once: its name, how it starts, and the name and size of each axis.

    query = weight(self, "query", normal(d**-0.5), embed=d, heads=n, head_dim=h)

The declaration is the weight's documentation and its sharding (`arch.sharding.mesh.RULES` places the names). At `init`
the value comes in a box that carries this metadata; `unbox` opens all boxes once, and from then on parameters are a
plain nested dict of float32 arrays.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.core import meta

from arch.ops.int8 import Int8
from arch.typing import Array


@struct.dataclass
class Weight(meta.AxisMetadata):
    """The box of a weight: value, logical axes, and whether gradient descent trains it."""

    value: Any
    axes: tuple[str, ...] = struct.field(pytree_node=False)
    trainable: bool = struct.field(pytree_node=False, default=True)

    @classmethod
    def from_nnx_metadata(cls, metadata: dict[str, Any]) -> "Weight":
        """The box of an NNX variable that `flax.nnx.bridge` made of a box."""
        return cls(metadata["value"], metadata["axes"], metadata["trainable"])

    def unbox(self):
        """The value alone."""
        return self.value

    def replace_boxed(self, val):
        """The same box around another value."""
        return self.replace(value=val)

    def add_axis(self, index, params):
        """The box after a scan over layers put a new axis at `index`."""
        return self.replace(axes=(*self.axes[:index], "layers", *self.axes[index:]))

    def remove_axis(self, index, params):
        """The box of one layer's slice."""
        return self.replace(axes=(*self.axes[:index], *self.axes[index + 1 :]))


def weight(
    module: nn.Module, name: str, init: Callable, *, trainable: bool = True, dtype: Any = jnp.float32, **axes: int
) -> Array | Int8:
    """Declares (at init) or fetches (afterwards) a weight of a Linen module.

    Args:
      module: the module that owns it.
      name: its name in the parameter path.
      init: `init(key, shape) -> float32 array`.
      trainable: False for a buffer, which the optimizer never touches.
      dtype: the type in which it is used; it is kept in float32.
      **axes: the logical name and the size of each dimension, in order.

    Returns:
      The array; or an `Int8`, where the parameters have one in its place.
    """

    def boxed(key):
        return Weight(init(key, tuple(axes.values())), tuple(axes), trainable)

    return module.param(name, boxed).astype(dtype)


def normal(stddev: float) -> Callable:
    """Initialiser: a normal distribution cut at two standard deviations, with this standard deviation after the cut."""
    cut = 0.87962566103423978  # standard deviation of the unit normal cut at two
    return lambda key, shape: stddev / cut * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


def constant(value: float) -> Callable:
    """Initialiser: every entry is `value`."""
    return lambda key, shape: jnp.full(shape, value, jnp.float32)


def _is_box(leaf) -> bool:
    return isinstance(leaf, Weight)


def unbox(tree: Any) -> Any:
    """The values of a tree of boxes; what is in no box stays."""
    return jax.tree.map(lambda leaf: leaf.value if _is_box(leaf) else leaf, tree, is_leaf=_is_box)


def axes(tree: Any) -> Any:
    """The logical axes of a tree of boxes (tuples as leaves)."""
    return jax.tree.map(lambda box: box.axes, tree, is_leaf=_is_box)


def trainable(tree: Any) -> Any:
    """True where gradient descent trains the weight, over a tree of boxes."""
    return jax.tree.map(lambda box: box.trainable, tree, is_leaf=_is_box)
