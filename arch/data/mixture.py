"""Samples of several sources mixed by weight, as a pure function of (seed, index).

The indices are cut into blocks of M. With shares p_k of the sources (sum 1), bounds C_k = p_1 + ... + p_k and a start
u in [0, 1) drawn once from the seed, point j of a block lies at (j + u) / M and belongs to the source in whose interval
[C_(k-1), C_k) it falls; each block deals its points out in an order of its own. So each source has the same count n_k
in every block, with |n_k - M p_k| < 1 and expectation M p_k over the seeds, and the sample of source k at index
b M + j is its own number b n_k + (those of k before j in the block): every source walks through its own epochs.
Systematic sampling: Madow and Madow, "On the Theory of Systematic Sampling, I", 1944, Annals of Mathematical Statistics
15(1).
"""

import functools
from collections.abc import Sequence

import numpy as np

BLOCK = 2**14
"""M: samples after which the shares are met."""


class Mixture:
    """Samples by index: `mixture[index]` is a sample of one of the sources.

    Args:
      sources: samples by index, endless, best of different seeds (`source_seed`).
      weights: of the sources, above 0.
      seed: of the order, at least 0.

    Raises:
      ValueError: a share too small to be met in a block.
    """

    endless = True

    def __init__(self, sources: Sequence, weights: Sequence[float], *, seed: int):
        shares = np.array(weights) / np.sum(weights)
        if shares.min() < 1 / BLOCK:
            k = int(shares.argmin())
            raise ValueError(f"mixture[{k}].weight={weights[k]} must be at least 1/{BLOCK} of all weights together")
        self._sources, self._seed = sources, seed
        start = _bits(seed, 4).random_raw() / 2**64
        points = (np.arange(BLOCK) + start) / BLOCK
        self._choices = np.searchsorted(np.cumsum(shares)[:-1], points, side="right")
        self._counts = np.bincount(self._choices, minlength=len(sources))
        self.samples_per_epoch = sum(source.samples_per_epoch for source in sources)
        self._block = functools.lru_cache(maxsize=2)(self._block_table)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        source, number = self.locate(index)
        return self._sources[source][number]

    def origin(self, index: int) -> dict:
        """Where a sample comes from: its `source`, and what that one tells of it."""
        source, number = self.locate(index)
        inner = getattr(self._sources[source], "origin", None)
        return {"source": source} | (inner(number) if inner else {})

    def locate(self, index: int) -> tuple[int, int]:
        """Which source an index falls to, and which of that source's samples it is."""
        block, place = divmod(index, BLOCK)
        choices = self._block(block)
        source = int(choices[place])
        return source, block * int(self._counts[source]) + int(np.count_nonzero(choices[:place] == source))

    def _block_table(self, block: int) -> np.ndarray:
        """The source of each place of a block: int64[BLOCK]."""
        return self._choices[np.argsort(_bits(self._seed, 5, block).random_raw(BLOCK), kind="stable")]


def source_seed(seed: int, source: int) -> int:
    """The seed of a source's own order."""
    return int(_bits(seed, 6, source).random_raw())


def _bits(*entropy: int) -> np.random.Philox:
    # Raw bits of a bit generator are the same in every version of NumPy.
    return np.random.Philox(np.random.SeedSequence(entropy))
