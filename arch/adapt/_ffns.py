"""Other ffns in chosen layers of a model: its config, and its parameters by canonical path."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arch import tree
from arch.ffns import gated_mlp, mlp, moe
from arch.layers import block, stack

MATRICES = ("gate", "up", "down")
"""The weights of an ffn, and of each expert."""

DENSE, SPARSE = (mlp.Config, gated_mlp.Config), (moe.Config,)
"""The configs of ffns."""


def has_one(model: Any, number: int, kinds: tuple) -> bool:
    """Whether a layer has a single ffn, of these kinds, with parameters of its own."""
    layer = model.layers.blocks[number]
    found = [part for part in layer.sublayers if isinstance(part, DENSE + SPARSE)]
    return len(found) == 1 and isinstance(found[0], kinds) and not layer.group


def chosen_layers(model: Any, layers: Sequence[int], kinds: tuple) -> list[int]:
    """The numbers of the layers that change. Raises ValueError where one has not one ffn of these kinds of its own."""
    count = len(model.layers.blocks)
    chosen = sorted(set(layers)) or list(range(count))
    for i in chosen:
        if not 0 <= i < count:
            raise ValueError(f"layers={tuple(layers)} must be from 0 to {count - 1}")
        if not has_one(model, i, kinds):
            names = " or ".join(kind.__module__.rsplit(".", 1)[-1] for kind in kinds)
            labels = model.layers.blocks[i].labels
            raise ValueError(f"layer {i} must hold one {names}, with parameters of its own; it is {labels}")
    return chosen


def place_of(layer: block.Config) -> int:
    """Where the ffn stands among a layer's sublayers."""
    return next(i for i, part in enumerate(layer.sublayers) if isinstance(part, DENSE + SPARSE))


def ffn_of(model: Any, number: int) -> Any:
    """A layer's ffn."""
    layer = model.layers.blocks[number]
    return layer.sublayers[place_of(layer)]


def with_ffns(model: Any, new: Mapping[int, Any]) -> Any:
    """The config of the model with these ffns in these layers."""
    blocks = list(model.layers.blocks)
    for number, ffn in new.items():
        parts = list(blocks[number].sublayers)
        parts[place_of(blocks[number])] = ffn
        blocks[number] = blocks[number].replace(sublayers=tuple(parts))
    return model.replace(layers=_regrouped(model.layers, tuple(blocks)))


def changed(model: Any, params: Mapping, new: Mapping[int, Any], change: Callable) -> tuple[Any, tree.Tree]:
    """The model with these ffns in these layers, and its parameters, theirs by `change(number, old ffn, its leaves)`.

    What is called after a sublayer, norms too, is called after the new one.
    """
    other, layers = with_ffns(model, new), dict(params["layers"])
    for number in new:
        before, after, own = model.layers.blocks[number], other.layers.blocks[number], dict(layers[str(number)])
        label = before.labels[place_of(before)]
        own[label] = change(number, ffn_of(model, number), own[label])
        both = list(zip(before.labels, after.labels))
        names = {theirs + end: ours + end for theirs, ours in both for end in ("", "_norm", "_post_norm")}
        layers[str(number)] = {names.get(name, name): leaf for name, leaf in own.items()}
    return other, dict(params) | {"layers": layers}


def _regrouped(layers: stack.Config, blocks: tuple[block.Config, ...]) -> stack.Config:
    """The same prefix and suffix around the shortest period of the layers between."""
    begin, end = len(layers.prefix), len(blocks) - len(layers.suffix)
    between, count = blocks[begin:end], end - begin
    period = next(p for p in range(1, count + 1) if count % p == 0 and between == between[:p] * (count // p))
    parts = dict(prefix=blocks[:begin], pattern=between[:period], suffix=blocks[end:])
    return layers.replace(**parts, repeats=count // period)
