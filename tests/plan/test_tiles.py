"""How arrays lie in a TPU's memory: the bytes and the layouts that libtpu 0.0.48.1 gave to arguments on a v5e."""

import pytest

from arch.plan import tiles


@pytest.mark.parametrize("shape, itemsize, size", [
    ((30, 144, 9, 64), 4, 17_694_720),  # {1,3,2,0:T(8,128)}
    ((30, 1536, 144), 4, 26_542_080),
    ((50257, 192), 4, 38_633_472),
    ((12, 768, 3, 4), 4, 442_368),  # T(4,128)
    ((768, 2), 2, 3_072),
    ((2, 3, 4, 5, 6), 4, 61_440),
    ((13, 100, 17), 4, 139_264),
    ((12, 16, 96), 2, 49_152),
    ((30, 576), 4, 81_920),
    ((576,), 4, 4_096),
    ((3,), 2, 512),
    ((), 4, 512),
])  # fmt: skip
def test_an_array_takes_as_many_bytes_as_libtpu_says(shape, itemsize, size):
    assert tiles.size(shape, itemsize) == size


@pytest.mark.parametrize("shape, axis", [((30, 144, 9, 64), 1), ((30, 144, 1536), 2), ((50257, 192), 0), ((3, 768), 1)])
def test_the_axis_along_the_lanes_leaves_least_empty(shape, axis):
    assert tiles.minor(shape) == axis


def test_a_matrix_by_its_rows_has_them_in_whole_lanes():
    assert tiles.by_rows((50257, 192), 4) == 4 * 50264 * 256
