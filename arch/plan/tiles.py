"""How arrays lie in a TPU's memory: in tiles of 8 x 128, along the two axes that leave least of them empty.

    bytes = itemsize * (product of the other axes) * up(second, 8) * up(minor, 128)

The second axis is rounded up to the next power of two where it is under 8; an array of one axis to the next power of
two from 128 to 1024, or a multiple of 1024. That is the layout which libtpu 0.0.48 gives arguments; a program may
choose others inside.
"""

import itertools
import math
from collections.abc import Sequence

LANES, SUBLANES, LEAST = 128, 8, 512
"""Of a tile; and the bytes of the smallest array."""


def size(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array of this shape, with what its tiles leave empty."""
    if len(shape) < 2:
        number = math.prod(shape)
        return max(LEAST, itemsize * _up(number, _power(number, LANES, LANES * SUBLANES)))
    return itemsize * min(_entries(shape, *pair) for pair in itertools.permutations(range(len(shape)), 2))


def by_rows(shape: tuple[int, int], itemsize: int) -> int:
    """Bytes of a matrix whose rows lie along the lanes."""
    return itemsize * _entries(shape, 0, 1)


def minor(shape: Sequence[int]) -> int:
    """The axis along a tile's lanes, of two or more axes; the last of equally good ones."""
    pairs = itertools.permutations(range(len(shape)), 2)
    return min(pairs, key=lambda pair: (_entries(shape, *pair), -pair[1]))[1]


def _entries(shape: Sequence[int], second: int, minor: int) -> int:
    """Places of an array that lies so."""
    rest = math.prod(dim for axis, dim in enumerate(shape) if axis not in (second, minor))
    return rest * _up(shape[second], _power(shape[second], 1, SUBLANES)) * _up(shape[minor], LANES)


def _power(number: int, least: int, most: int) -> int:
    """The next power of two, between two of them."""
    return min(most, max(least, 1 << (number - 1).bit_length()))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
