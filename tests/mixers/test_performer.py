"""What is particular to the Performer: random vectors that are not trained, and are redrawn on a schedule."""

import jax
import jax.numpy as jnp
import numpy as np

from arch.layers.weight import trainable, unbox
from arch.mixers import performer
from arch.ops.linear_attention import favor
from tests.contracts.sublayers import context, inputs

CFG = performer.Config(num_heads=2, head_dim=3, num_features=5, redraw_every=3)


def _boxes(cfg=CFG, seed=0):
    return cfg.make().init(jax.random.key(seed), inputs(), context(inputs()))["params"]


def _buffers(seed=0):
    return {name: unbox(_boxes(seed=seed))[name] for name in ("vectors", "seed", "step")}


def test_vectors_are_not_trained_and_projections_are():
    assert {name for name, trained in trainable(_boxes()).items() if not trained} == {"vectors", "seed", "step"}


def test_a_performer_that_keeps_its_vectors_has_no_clock():
    assert {"seed", "step"}.isdisjoint(_boxes(CFG.replace(redraw_every=0)))


def test_vectors_change_at_every_third_step():
    buffers, changed = _buffers(), []
    for _ in range(7):
        after = CFG.update(buffers, {})
        changed.append(not np.array_equal(after["vectors"], buffers["vectors"]))
        buffers = after
    assert changed == [False, False, True, False, False, True, False]


def test_a_step_s_vectors_depend_on_the_seed_and_the_step_alone():
    buffers = _buffers() | {"step": jnp.asarray([5.0])}
    key = jax.random.key(int(buffers["seed"][0]))
    expected = favor.draw(jax.random.fold_in(key, 6), 5, 3)
    for vectors in (buffers["vectors"], jnp.zeros((5, 3))):
        np.testing.assert_array_equal(CFG.update(buffers | {"vectors": vectors}, {})["vectors"], expected)


def test_layers_have_vectors_and_seeds_of_their_own():
    one, other = _buffers(0), _buffers(1)
    assert one["seed"] != other["seed"] and not np.array_equal(one["vectors"], other["vectors"])


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.float32)) for length in (3, 3000))
    assert short == long == {"state": (2, 2, 5, 4), "scale": (2, 2)}
