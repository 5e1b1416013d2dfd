"""How a family's rules fit a model's weights, and its config a published one: used by the tests of families."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from arch import tree
from arch.ffns import moe
from arch.layers.weight import unbox
from arch.published import differences


def shapes(cfg) -> dict:
    """The shapes of a model's weights by canonical path."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), tokens)["params"])
    return tree.paths(jax.eval_shape(tree.unstack, params))


def as_read(preset):
    """A decoder's preset as it is read of a checkpoint: without the balance losses of its routers."""

    def plain(part):
        return part.replace(balance_weight=0.0, balance_over="row") if isinstance(part, moe.Config) else part

    def blocks(layers):
        return tuple(layer.replace(sublayers=tuple(map(plain, layer.sublayers))) for layer in layers)

    parts = {name: blocks(getattr(preset.layers, name)) for name in ("prefix", "pattern", "suffix")}
    return preset.replace(layers=preset.layers.replace(**parts))


def theirs(family, cfg) -> set[str]:
    """The names of the tensors that a model is published as."""
    return {name for rule in family.rules(cfg) for name in rule.theirs}


def optional(family, cfg) -> tuple[str, ...]:
    """What a file may hold beside them, as regular expressions."""
    return (*family.ignored(cfg), *map(re.escape, family.duplicates(cfg)))


def misfits(family, cfg) -> list[str]:
    """What keeps the rules from naming each weight once and giving it back after saving and loading, [] for nothing."""
    have, rng, lines = shapes(cfg), np.random.default_rng(0), []
    for rule in family.rules(cfg):
        # few enough bits that no sum with a rule's shift is rounded
        values = [np.float64(rng.standard_normal(have[path].shape, np.float32)) for path in rule.ours]
        back = rule.load(rule.save(values))
        lines += [path for path, a, b in zip(rule.ours, values, back, strict=True) if not np.array_equal(a, b)]
    return lines + differences(family.rules(cfg), have, theirs(family, cfg), ())
