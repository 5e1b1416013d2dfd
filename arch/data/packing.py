"""Packed training samples as a pure function of (seed, index).

With documents of lengths n_j, an epoch is their concatenation in the order of a permutation, cut into windows
[i T, i T + T] of T = seq_len inputs and their T targets, which are dealt out in the order of a second permutation, lest
a batch be one document's neighbouring windows. Both depend on (seed, epoch) alone:

    epoch, j = divmod(index, S),   i = permutation(j),   S = floor((sum_j n_j - 1) / T)   (ceil in order, see below)

Shards, hosts and restarts therefore cannot change the stream of tokens. Own work; the idea of a global sample index
over an offset table is that of Megatron-LM's GPTDataset (Shoeybi et al., 2019, arXiv:1909.08053).
"""

import functools
from collections.abc import Mapping

import grain
import numpy as np


class Packed:
    """Samples of one split by index: `packed[index]` is a dict of arrays of length `seq_len`.

    tokens: int32, the inputs. targets: int32, the same one place later.
    segment_ids: int32, 1, 2, ... for the documents in the window; 0 for padding.
    positions: int32, counted from 0 within each segment.
    weights: float32, 1 where the target counts, 0 for padding.
    and each of `columns`, of the targets; 0 for padding.

    Shuffled (training): there is no last index; each epoch has its own order and drops the tail that does not fill a
    window. In order (validation): one pass, the last window is padded, and behind it all is padding.

    Args:
      tokens: the split's documents one after another, ints[total].
      offsets: int64[documents + 1], where each begins, and the end.
      seq_len: T.
      seed: of the permutations, at least 0.
      shuffled: training or validation.
      columns: what else goes with each token, by name: numbers[total].

    Raises:
      ValueError: the split is shorter than one window.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        offsets: np.ndarray,
        *,
        seq_len: int,
        seed: int = 0,
        shuffled: bool,
        columns: Mapping[str, np.ndarray] = {},
    ):
        self._tokens, self._offsets, self._columns = tokens, offsets, columns
        self._seq_len, self._seed, self._shuffled = seq_len, seed, shuffled
        self.endless = shuffled
        targets = len(tokens) - 1
        self.samples_per_epoch = targets // seq_len if shuffled else -(-targets // seq_len)
        if self.samples_per_epoch < 1:
            raise ValueError(f"seq_len={seq_len} must be below the split's {len(tokens)} tokens")
        self._epoch = functools.lru_cache(maxsize=2)(self._epoch_tables)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        places, rank, order, starts = self._window(index)
        held = self._offsets[order[rank]] + places - starts[rank]
        window = self._tokens[held]
        columns = {name: self._padded(column[held[1:]], column.dtype) for name, column in self._columns.items()}
        return columns | {
            "tokens": self._padded(window[:-1], np.int32),
            "targets": self._padded(window[1:], np.int32),
            "segment_ids": self._padded(rank[:-1] - rank[:1] + 1, np.int32),
            "positions": self._padded((places - np.maximum(starts[rank], places[:1]))[:-1], np.int32),
            "weights": self._padded(np.ones(len(window[1:])), np.float32),
        }

    def origin(self, index: int) -> dict[str, list[int]]:
        """Where a sample comes from: the numbers of its `documents`, from 0 in the order of `offsets`."""
        _, rank, order, _ = self._window(index)
        return {"documents": order[np.unique(rank)].tolist()}

    def _window(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The places of a sample's tokens in its epoch, the rank of the document that each lies in, `_epoch_tables`."""
        epoch, sample = divmod(index, self.samples_per_epoch) if self._shuffled else (0, index)
        order, starts = self._epoch(epoch)
        if self._shuffled:
            seed = int(np.random.SeedSequence((self._seed, epoch, 1)).generate_state(1)[0])
            last = self.samples_per_epoch - 1
            sample = grain.experimental.index_shuffle(sample, max_index=last, seed=seed, rounds=4)
        first = sample * self._seq_len
        places = np.arange(first, min(first + self._seq_len + 1, len(self._tokens)))
        return places, np.searchsorted(starts, places, side="right") - 1, order, starts

    def _padded(self, values: np.ndarray, dtype) -> np.ndarray:
        out = np.zeros(self._seq_len, dtype)
        out[: len(values)] = values
        return out

    def _epoch_tables(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents' order in an epoch, and where each begins in it: int64[documents] twice."""
        order = np.arange(len(self._offsets) - 1)
        if self._shuffled:
            # Not Generator.permutation: NumPy keeps only the streams of bit generators from version to version.
            bits = np.random.Philox(np.random.SeedSequence((self._seed, epoch)))
            order = np.argsort(bits.random_raw(len(order)), kind="stable")
        lengths = np.diff(self._offsets)[order]
        return order, np.cumsum(lengths) - lengths
