"""A decoder family's rules name each weight once, in its shape, and are undone by reading them backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.layers.weight import unbox
from arch.published import differences
from tests.families.tiny import TINY


@pytest.fixture(scope="module", params=TINY)
def case(request):
    """The family's rules for a tiny model, and random values of its weights by canonical path."""
    family, cfg = TINY[request.param]
    boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    shapes = tree.paths(jax.eval_shape(tree.unstack, unbox(boxes)))
    rng = np.random.default_rng(0)
    return family.rules(cfg), {path: rng.standard_normal(leaf.shape) for path, leaf in shapes.items()}


def test_each_weight_and_each_tensor_has_one_rule(case):
    rules, ours = case
    assert differences(rules, ours, {name for rule in rules for name in rule.theirs}, ()) == []


def test_reading_what_was_saved_gives_every_weight_back(case):
    rules, ours = case
    for rule in rules:
        back = rule.load(rule.save([ours[path] for path in rule.ours]))
        assert all(np.array_equal(a, ours[path]) for a, path in zip(back, rule.ours, strict=True)), rule
