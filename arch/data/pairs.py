"""Pairs of texts, of which the second follows the first in half of the samples and comes from elsewhere in the others.

    [CLS] A [SEP] B [SEP]          token types 0 ... 0 1 ... 1

Each document, without its separator, is cut into windows of at most T = seq_len - 3 tokens; a window of n tokens is cut
once more, after a number a of them that is uniform in 1 ... n - 1: the first part is A. B is the second, or as many
tokens of another document: one drawn uniformly of those that have more, from a place behind its first token that is
drawn uniformly too. If no other document has more, B is shorter, whether it follows A or not. So neither its length nor
an opening tells which it is. Windows, cuts and draws are functions of (seed, index).
Devlin et al., "BERT", 2018, arXiv:1810.04805, sec. 3.1 (task 2) and appendix A.2. Its released code cuts between
sentences, makes one sample of ten shorter, and goes on behind A when B is from elsewhere.
"""

import grain
import numpy as np


class Pairs:
    """Samples by index, each a dict of arrays:

    tokens, token_types, positions: int32[seq_len]. valid: bool[seq_len], False for padding.
    next_sentence: int32[], 0 where B follows A, 1 where it is from elsewhere.

    Args:
      tokens: the documents one after another, ints[total], each opened by a separator.
      offsets: int64[documents + 1], where each begins, and the end.
      seq_len: tokens of a sample.
      cls_id: the token that opens a sample.
      sep_id: the token that ends A and B.
      seed: of the order, the cuts and the draws, at least 0.
      shuffled: training (endless, each epoch in its own order) or validation (once, in order).

    Raises:
      ValueError: samples too short, or fewer than two documents with two tokens.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        offsets: np.ndarray,
        *,
        seq_len: int,
        cls_id: int,
        sep_id: int,
        seed: int = 0,
        shuffled: bool,
    ):
        if seq_len < 5:
            raise ValueError(f"seq_len={seq_len} must be at least 5: three special tokens and two of text")
        self._tokens, self._offsets = tokens, np.asarray(offsets)
        self._seq_len, self._ids, self._seed, self.endless = seq_len, (cls_id, sep_id), seed, shuffled
        lengths = np.diff(self._offsets) - 1
        whole, rest = np.divmod(lengths, seq_len - 3)
        self._ends = np.cumsum(np.where(lengths > 1, whole + (rest > 1), 0))  # of the documents' windows
        long = np.count_nonzero(lengths > 1)
        if long < 2:
            raise ValueError(f"{long} documents of two tokens or more must be at least 2, to pair them")
        self._by_length = np.argsort(lengths, kind="stable")
        self._lengths = lengths[self._by_length]  # ascending
        self._rank = np.argsort(self._by_length)
        self.samples_per_epoch = int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        own, begin, end = self._window(index)
        window = self._tokens[begin:end]
        cut, other, document, place = np.random.Philox(np.random.SeedSequence((self._seed, index, 9))).random_raw(4)
        first, second = np.split(window, [1 + int(cut % np.uint64(len(window) - 1))])
        elsewhere = bool(other >> np.uint64(63))
        longest = self._lengths[-2 if own == self._by_length[-1] else -1]  # of the other documents
        second = second[: longest - 1]
        if elsewhere:
            second = self._from_elsewhere(own, len(second), int(document), int(place))
        cls, sep = self._ids
        parts = [[cls], first, [sep], second, [sep]]
        types = np.repeat([0, 1], [len(first) + 2, len(second) + 1])
        size = len(types)
        return {
            "tokens": self._padded(np.concatenate(parts)),
            "token_types": self._padded(types),
            "positions": self._padded(np.arange(size)),
            "valid": np.arange(self._seq_len) < size,
            "next_sentence": np.int32(elsewhere),
        }

    def origin(self, index: int) -> dict[str, list[int]]:
        """Where a sample comes from: in `documents` the number, from 0 in the order of `offsets`, of the one of A."""
        return {"documents": [self._window(index)[0]]}

    def _window(self, index: int) -> tuple[int, int, int]:
        """The document that the window of an index lies in, and where it begins and ends among the tokens."""
        number = index
        if self.endless:
            epoch, number = divmod(index, self.samples_per_epoch)
            seed = int(np.random.SeedSequence((self._seed, epoch, 10)).generate_state(1)[0])
            last = self.samples_per_epoch - 1
            number = grain.experimental.index_shuffle(number, max_index=last, seed=seed, rounds=4)
        document = int(np.searchsorted(self._ends, number, side="right"))
        size, before = self._seq_len - 3, self._ends[document - 1] if document else 0
        begin = int(self._offsets[document] + 1 + (number - before) * size)
        return document, begin, min(begin + size, int(self._offsets[document + 1]))

    def _from_elsewhere(self, own: int, size: int, document: int, place: int) -> np.ndarray:
        """`size` tokens of another document than one's own, of which both have more, by two random numbers."""
        shorter = int(np.searchsorted(self._lengths, size, side="right"))
        rank = shorter + document % (len(self._lengths) - shorter - 1)
        rank += rank >= self._rank[own]
        start = int(self._offsets[self._by_length[rank]]) + 2 + place % int(self._lengths[rank] - size)
        return self._tokens[start : start + size]

    def _padded(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(self._seq_len, np.int32)
        out[: len(values)] = values
        return out
