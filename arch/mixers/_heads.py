"""What mixers with heads share: from the residual stream to heads and back, and the products that this takes."""

import flax.linen as nn

from arch.layers.contract import Context
from arch.layers.flops import Row
from arch.layers.weight import constant, normal, weight
from arch.ops.linear import linear
from arch.sharding.mesh import constrain, platform
from arch.typing import Array, Float


def to_heads(
    module: nn.Module, name: str, x: Float[Array, "b t d"], num_heads: int, channels: int, *, bias: bool = False
) -> Float[Array, "b t n h"]:
    """The projection called `name` of a mixer, with a learned shift or not."""
    d, axes = x.shape[-1], dict(heads=num_heads, head_dim=channels)
    out = linear(x, weight(module, name, normal(d**-0.5), dtype=x.dtype, embed=d, **axes), platform=platform())
    if bias:
        out += weight(module, f"{name}_bias", constant(0.0), dtype=x.dtype, **axes)
    return constrain(out, "batch", "sequence", "heads", None)


def from_heads(
    module: nn.Module, x: Float[Array, "b t n h"], embed_dim: int, *, bias: bool = False
) -> Float[Array, "b t d"]:
    """The projection 'out' of a mixer, with a learned shift or not."""
    n, h = x.shape[-2:]
    x = constrain(x, "batch", "sequence", "heads", None)
    kernel = weight(module, "out", normal((n * h) ** -0.5), dtype=x.dtype, heads=n, head_dim=h, embed=embed_dim)
    out = linear(x, kernel, axes=2, platform=platform())
    return out + weight(module, "out_bias", constant(0.0), dtype=x.dtype, embed=embed_dim) if bias else out


def projections(row: Row, num_heads: int, *channels: int) -> int:
    """Multiply-adds of a row's projections between the stream and so many channels a head."""
    return row.length * row.embed_dim * num_heads * sum(channels)


def borders(context: Context) -> dict[str, Array | None]:
    """What a recurrence reads of the context."""
    return {"reset": context.starts(), "valid": context.valid}
