"""Nested dicts of arrays by path: select, partition, and move between the stacked and the canonical form.

The canonical form of a model's parameters has one entry a layer: `layers/3/attention/query`. The scanned form, which
training uses because it compiles one period instead of all layers, holds the repeated part of a stack under
`scan_p_q`, behind p prefix blocks and with q blocks a period, with a leading axis:
`layers/scan_1_2/0/attention/query[repeats, ...]`. `scan_p_q/j[i]` is layer `p + i * q + j`. A period's block that
shares its parameters has no entry.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Tree = dict[str, Any]


def paths(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested dict by their path: `{'layers/3/attention/query': leaf}`, in the tree's own order."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        flat.update(paths(value, path) if isinstance(value, Mapping) else {path: value})
    return flat


def from_paths(flat: Mapping[str, Any]) -> Tree:
    """The nested dict whose leaves have these paths: the inverse of `paths`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def map_with_path(function: Callable, tree: Mapping, *rest: Mapping) -> Tree:
    """`function(path, leaf, *other_leaves)` over a nested dict."""
    others = [paths(other) for other in rest]
    return from_paths({path: function(path, leaf, *(o[path] for o in others)) for path, leaf in paths(tree).items()})


def select(tree: Mapping, patterns: Sequence[str]) -> Tree:
    """A tree of booleans: True where any of the regular expressions is found in the leaf's path."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return map_with_path(lambda path, _: any(pattern.search(path) for pattern in compiled), tree)


def partition(tree: Mapping, mask: Mapping) -> tuple[Tree, Tree]:
    """Two trees: the leaves where `mask` is True, and the others. `merge` puts them together again."""
    chosen = paths(mask)
    flat = paths(tree)
    inside = {path: leaf for path, leaf in flat.items() if chosen[path]}
    outside = {path: leaf for path, leaf in flat.items() if not chosen[path]}
    return from_paths(inside), from_paths(outside)


def merge(first: Mapping, second: Mapping) -> Tree:
    """The union of two trees with different leaves. Raises ValueError, naming the path, when they share one."""
    flat, other = paths(first), paths(second)
    for path in flat:
        if path in other:
            raise ValueError(f"{path} is a leaf of both trees")
    return from_paths(flat | other)


def count(tree: Any) -> int:
    """Number of values in a tree of arrays (or of shapes, as `jax.eval_shape` gives them)."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def unstack(tree: Mapping) -> Tree:
    """The canonical form of a tree of arrays: what stands stacked under `scan_p_q` becomes one entry a layer."""
    flat: Tree = {}
    for key, value in tree.items():
        if _scan(key):
            for layer, i, j in _layers(tree, key):
                flat[layer] = jax.tree.map(lambda leaf, i=i: leaf[i], value[j])
        else:
            flat[key] = unstack(value) if isinstance(value, Mapping) else value
    return {key: flat[key] for key in sorted(flat, key=_layer_order)}


def stack(tree: Mapping, like: Mapping, combine: Callable = jnp.stack) -> Tree:
    """The scanned form of a canonical tree: the inverse of `unstack`.

    Args:
      tree: nested dict in canonical form; it may lack leaves that `like` has.
      like: a tree in scanned form with the same stacks; only its structure and shapes are read.
      combine: joins the list of a leaf's values in the layers; the default stacks arrays.
    """
    scans = [key for key in like if _scan(key)]
    out = {}
    for key in scans:
        several: dict[str, list] = {}
        for layer, _, j in _layers(like, key):
            if layer in tree:
                several.setdefault(j, []).append(tree[layer])
        out[key] = {j: jax.tree.map(lambda *leaves: combine(leaves), *layers) for j, layers in several.items()}
    inside = {layer for key in scans for layer, _, _ in _layers(like, key)}
    for key, value in tree.items():
        if key not in inside:
            nested = isinstance(value, Mapping) and isinstance(like.get(key), Mapping)
            out[key] = stack(value, like[key], combine) if nested else value
    return {key: value for key, value in out.items() if not isinstance(value, Mapping) or value}


def _scan(key: str) -> tuple[int, int] | None:
    """The (p, q) of a key `scan_p_q`, None for any other key."""
    found = re.fullmatch(r"scan_(\d+)_(\d+)", key)
    return (int(found[1]), int(found[2])) if found else None


def _layers(tree: Mapping, key: str):
    """(canonical name, repeat, name in the period) of each layer stacked under this key, layer by layer."""
    start, period = _scan(key)
    for i in range(jax.tree.leaves(tree[key])[0].shape[0]):
        for j in sorted(tree[key], key=int):
            yield str(start + i * period + int(j)), i, j


def _layer_order(key: str):
    return (not key.isdigit(), int(key) if key.isdigit() else key)
