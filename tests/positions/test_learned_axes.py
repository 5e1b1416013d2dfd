"""Learned coordinates are summed in row-major order, and know where the grid ends."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch.positions import learned_axes

CFG = learned_axes.Config(shape=(3, 5, 2))
TABLES = {f"axis_{a}": jnp.asarray(np.random.default_rng(a).standard_normal((n, 7))) for a, n in enumerate(CFG.shape)}


def embedded(positions):
    def own(name, init, **shape):
        assert TABLES[name].shape == tuple(shape.values())
        return TABLES[name]

    return CFG.embed(own, jnp.asarray(positions), 7)


def test_a_position_is_the_sum_of_its_coordinates_rows():
    grid = sum(
        np.asarray(TABLES[f"axis_{a}"]).reshape([-1 if axis == a else 1 for axis in range(3)] + [7]) for a in range(3)
    )
    np.testing.assert_allclose(embedded([np.arange(30)])[0], grid.reshape(30, 7), rtol=1e-6)


def test_a_position_beyond_the_grid_is_not_a_number():
    assert np.isnan(embedded([[30, -1]])).all() and np.isfinite(embedded([[0, 29]])).all()


@pytest.mark.parametrize(
    "shape, message",
    [((), r"shape=\(\) must have an axis"), ((65536, 65536), "must be of less than 2147483648 positions")],
)
def test_a_grid_that_cannot_be_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        learned_axes.Config(shape=shape)
