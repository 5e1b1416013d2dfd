"""From a model's config back to the few numbers that a family composes it from, with nothing lost on the way.

A family writes config.json in three steps: it takes the hyperparameters from the first layer (`sublayers`), composes
them again, and holds that this is the config it was given (`confirm`).
"""

from typing import Any

from arch import config as configs
from arch.layers import stack
from arch.mixers import attention

TRAINING = (
    *("dtype", "remat", "stddev", "dropout", "dt_min", "dt_max", "balance_loss", "balance_weight", "z_weight"),
    *("balance_over", "jitter", "drop_experts", "expert_dropout", "dispatch", "chunk_tokens", "round_factor", "matmul"),
    *("max_globals", "block"),
)
"""Fields that do not change what a trained model computes: a published config need not hold them."""


def channels_a_head(embed_dim: int, num_heads: int) -> int:
    """Channels of a head where the heads share the stream's width. Raises ValueError when they cannot."""
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
    return embed_dim // num_heads


def sublayers(config: configs.Config, model: type, *kinds: type, layer: int = 0) -> tuple[Any, ...]:
    """A layer's sublayers, by default the first one's.

    Args:
      config: any model's config.
      model: the config class that the family composes.
      *kinds: the config classes of the layer's sublayers.
      layer: its number.

    Raises:
      ValueError: the config is of another class, or the layer holds other sublayers.
    """
    if not isinstance(config, model):
        raise ValueError(f"model={_name(type(config))!r} must be {_name(model)!r} in this family")
    found = config.layers.blocks[layer].sublayers
    if tuple(map(type, found)) != kinds:
        have, want = (", ".join(map(_name, some)) for some in (map(type, found), kinds))
        raise ValueError(f"layers[{layer}].sublayers=({have}) must be ({want}) in this family")
    return found


def _name(kind: type) -> str:
    return kind.__module__.rsplit(".", 1)[-1]


def confirm(config: configs.Config, composed: configs.Config) -> None:
    """Holds that a config is what its hyperparameters compose, but for what only training reads.

    Raises:
      ValueError: it is not; the first leaf that differs is named.
    """
    for path, ours, theirs in _differences(config, composed, ""):
        raise ValueError(f"{path}={ours!r} must be {theirs!r} in this family")


def _differences(ours: Any, theirs: Any, path: str):
    """(path, our leaf, their leaf) where configs differ: a stack counts by its layers, a config's class as `name`."""
    if isinstance(ours, stack.Config) and isinstance(theirs, stack.Config):
        ours, theirs = ours.blocks, theirs.blocks
    if ours == theirs:
        return
    if isinstance(ours, configs.Config) and type(ours) is type(theirs):
        if isinstance(ours, attention.Config):
            ours, theirs = (side.replace(num_kv_heads=side.kv_heads) for side in (ours, theirs))
        for field in (name for name in ours.__dataclass_fields__ if name not in TRAINING):
            yield from _differences(getattr(ours, field), getattr(theirs, field), f"{path}.{field}".lstrip("."))
    elif isinstance(ours, configs.Config) and isinstance(theirs, configs.Config):
        yield f"{path}.name", _name(type(ours)), _name(type(theirs))
    elif isinstance(ours, tuple) and len(ours) == len(theirs):
        for i, (one, other) in enumerate(zip(ours, theirs)):
            yield from _differences(one, other, f"{path}[{i}]")
    else:
        yield path, ours, theirs
