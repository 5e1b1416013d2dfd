"""From a model's config back to the few numbers that a family composes it from, with nothing lost on the way.

A family writes config.json in three steps: it takes the hyperparameters from the first layer (`sublayers`), composes
them again, and holds that this is the config it was given (`confirm`).
"""

from typing import Any

from arch import config as configs
from arch.layers import stack
from arch.mixers import attention

TRAINING = ("dtype", "remat", "stddev", "dropout", "dt_min", "dt_max", "balance_weight", "z_weight")
"""Fields that do not change what a trained model computes: a published config need not hold them."""


def sublayers(config: configs.Config, model: type, *kinds: type) -> tuple[Any, ...]:
    """The first layer's sublayers.

    Args:
      config: any model's config.
      model: the config class that the family composes.
      *kinds: the config classes of the sublayers of its layers.

    Raises:
      ValueError: the config is of another class, or its first layer holds other sublayers.
    """
    if not isinstance(config, model):
        raise ValueError(f"model={_name(type(config))!r} must be {_name(model)!r} in this family")
    found = config.layers.blocks[0].sublayers
    if tuple(map(type, found)) != kinds:
        have, want = (", ".join(map(_name, some)) for some in (map(type, found), kinds))
        raise ValueError(f"layers[0].sublayers=({have}) must be ({want}) in this family")
    return found


def _name(kind: type) -> str:
    return kind.__module__.rsplit(".", 1)[-1]


def confirm(config: configs.Config, composed: configs.Config) -> None:
    """Holds that a config is what its hyperparameters compose, but for what only training reads.

    Raises:
      ValueError: it is not; the first leaf that differs is named.
    """
    ours, theirs = dict(_leaves(config, "")), dict(_leaves(composed, ""))
    for path in ours | theirs:
        if ours.get(path) != theirs.get(path):
            raise ValueError(f"{path}={ours.get(path)!r} must be {theirs.get(path)!r} in this family")


def _leaves(value: Any, path: str):
    """(path, leaf) of all that a config holds: a stack counts by its layers, a config's class as a leaf `name`."""
    if isinstance(value, stack.Config):
        value = value.blocks
    if isinstance(value, attention.Config):
        value = value.replace(num_kv_heads=value.kv_heads)
    if isinstance(value, configs.Config):
        yield f"{path}.name".strip("."), _name(type(value))
        for field in value.__dataclass_fields__:
            if field not in TRAINING:
                yield from _leaves(getattr(value, field), f"{path}.{field}".strip("."))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, value
