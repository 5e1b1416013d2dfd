"""How well the last three bytes predict the next: the baseline that a language model has to beat.

In sample, the entropy of the empirical distribution, which knows the text it is asked about:

    H = -1/N sum_t log2 n(x_{t-3..t}) / n(x_{t-3..t-1})        counts n over train and valid, t over valid

Held out, counts over train alone, smoothed by interpolation with ever shorter contexts h, T(h) being the number of
different bytes seen after h (Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory
37(4), 1991, method C; recursive form of Chen and Goodman, 1998, TR-10-98, section 2.6):

    p(x | h) = (n(h x) + T(h) p(x | h')) / (n(h) + T(h)),        p(x | no context) from the uniform 1/256
"""

import numpy as np


def in_sample_bits(train: bytes, valid: bytes, order: int = 3) -> float:
    """Bits per byte of `valid` under the empirical conditional distribution of `train` and `valid` together."""
    asked = _grams(valid, order)
    seen = np.concatenate([_grams(train, order), asked])
    return float(np.mean(np.log2(_count(seen >> 8, asked >> 8)) - np.log2(_count(seen, asked))))


def held_out_bits(train: bytes, valid: bytes, order: int = 3) -> float:
    """Bits per byte of `valid` under a Witten-Bell smoothed model of `train`."""
    probability = np.full(len(valid) - order, 1 / 256)
    for length in range(order + 1):
        seen, asked = _grams(train, length), _grams(valid, length)[order - length :]
        joint, context = _count(seen, asked), _count(seen >> 8, asked >> 8)
        kinds = _count(np.unique(seen) >> 8, asked >> 8)
        smoothed = (joint + kinds * probability) / np.maximum(context + kinds, 1)
        probability = np.where(context > 0, smoothed, probability)
    return float(-np.mean(np.log2(probability)))


def _grams(text: bytes, order: int) -> np.ndarray:
    """int64[len(text) - order]: each byte with the `order` bytes before it, the newest lowest."""
    symbols = np.frombuffer(text, np.uint8).astype(np.int64)
    length = len(symbols) - order
    return sum(symbols[i : i + length] << 8 * (order - i) for i in range(order + 1))


def _count(seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """int64[len(asked)]: how often each of `asked` occurs in `seen`."""
    kinds, counts = np.unique(seen, return_counts=True)
    places = np.minimum(np.searchsorted(kinds, asked), len(kinds) - 1)
    return np.where(kinds[places] == asked, counts[places], 0)
