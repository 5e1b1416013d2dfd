"""Documents kept whole: each in a row of its own, or conversations side by side, as pure functions of (seed, index).

    epoch, j = divmod(index, R),   row = permutation(seed, epoch)(j)

What a row holds is the same in every epoch: each conversation, in a row with others, sees itself alone, so that its
neighbours do not matter, and R is the same in every epoch. They are put where they fit best, the longest first: into
the row with the least room that is enough, or else into a new one. Ding, Wang, Paolini, Kumar, Deoras, Roth, Soatto,
"Fewer Truncations Improve Language Modeling", 2024, arXiv:2404.10830, sec. 2. Windows of the packed stream
(`packing`) would cut most long conversations, and an answer that is cut off from its question teaches to make it up.
"""

import bisect
import collections
from collections.abc import Iterable

import grain
import numpy as np

from arch.data.token_files import Split

Sample = dict[str, np.ndarray]


class Rows:
    """Rows by index: endless and shuffled anew each epoch (training), or once in the corpus's order (validation).

    Attributes:
      endless: whether there is no last index.
      samples_per_epoch: R.
      truncated: documents that are longer than a row, of which the row holds a part.
      unlabelled: how many of these have no label in that part, so that nothing is learned from them.
    """

    def __init__(self, part: Split, count: int, *, seed: int, shuffled: bool, cut: Iterable[np.ndarray]):
        """`cut`: of each document that is longer than a row, which of the tokens that the row holds have a label."""
        self._part, self._seed, self.endless, self.samples_per_epoch = part, seed, shuffled, count
        learned = [bool(has.any()) for has in cut]
        self.truncated, self.unlabelled = len(learned), learned.count(False)

    def __getitem__(self, index: int) -> Sample:
        if not self.endless:
            return self._row(index)
        epoch, number = divmod(index, self.samples_per_epoch)
        seed = int(np.random.SeedSequence((self._seed, epoch, 8)).generate_state(1)[0])
        last = self.samples_per_epoch - 1
        return self._row(grain.experimental.index_shuffle(number, max_index=last, seed=seed, rounds=4) if last else 0)

    def _row(self, number: int) -> Sample:
        raise NotImplementedError


class Documents(Rows):
    """A document a row, padded at its end. One that is longer loses tokens of its longer part, before the last of it.

    The last token of each part stays, since it closes it: [CLS] A [SEP] B [SEP]. Each row is a dict of

    tokens: int32[seq_len]. positions: int32[seq_len], from 0. valid: bool[seq_len], False for padding.
    targets: int32[seq_len], the labels. weights: float32[seq_len], 1 where there is a label, else 0.
    token_types: int32[seq_len], if the split has that column.

    Args:
      part: the documents, with the column `labels`, and of pairs `parts`, which text each token belongs to.
      seq_len: at least 4.
      seed: of the order.
      shuffled: training or validation.

    Raises:
      ValueError: rows too short for the special tokens.
    """

    def __init__(self, part: Split, *, seq_len: int, seed: int = 0, shuffled: bool):
        if seq_len < 4:
            raise ValueError(f"seq_len={seq_len} must be at least 4, for the tokens around one text or two")
        lengths = np.diff(part.offsets)
        cut = (part.columns["labels"][a : a + seq_len - 1] >= 0 for a in part.offsets[:-1][lengths > seq_len])
        super().__init__(part, len(lengths), seed=seed, shuffled=shuffled, cut=cut)
        self._seq_len = seq_len

    def _row(self, number: int) -> Sample:
        begin, end = self._part.offsets[number : number + 2]
        columns = {"tokens": self._part.tokens} | dict(self._part.columns)
        held = {name: np.asarray(column[begin:end], np.int32) for name, column in columns.items()}
        parts = held.pop("parts", np.zeros(end - begin, np.int32))
        kept = _kept(np.bincount(parts), self._seq_len)
        row = {name: np.pad(values[kept], (0, self._seq_len - len(kept))) for name, values in held.items()}
        places = np.arange(self._seq_len, dtype=np.int32)
        labels, valid = row.pop("labels"), places < len(kept)
        has = valid & (labels >= 0)
        row |= {"targets": np.where(has, labels, 0), "weights": has.astype(np.float32)}
        return row | {"positions": places, "valid": valid}


class Pairs(Documents):
    """Two documents a row, each in a half of it: a half is as a row of one, and the label that of the first document.

    Args:
      part: as of documents, which are paired as they come.
      seq_len: of both halves.
    """

    def __init__(self, part: Split, *, seq_len: int, seed: int = 0, shuffled: bool):
        super().__init__(part, seq_len=seq_len // 2, seed=seed, shuffled=shuffled)
        self.samples_per_epoch //= 2

    def _row(self, number: int) -> Sample:
        first, second = super()._row(2 * number), super()._row(2 * number + 1)
        second |= {name: np.zeros_like(second[name]) for name in ("targets", "weights")}
        return {name: np.concatenate([first[name], second[name]]) for name in first}


def _kept(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    """Which tokens of a document, of one part or two of these lengths, a row holds."""
    if sum(lengths) <= seq_len:
        return np.arange(sum(lengths))
    keeps = [seq_len]
    if len(lengths) > 1:
        shorter = min(*lengths, seq_len // 2)
        keeps = [shorter, seq_len - shorter] if lengths[0] <= lengths[1] else [seq_len - shorter, shorter]
    ends = np.cumsum(lengths)
    begins = ends - lengths
    return np.concatenate([[*range(begin, begin + keep - 1), end - 1] for begin, end, keep in zip(begins, ends, keeps)])


class Conversations(Rows):
    """Conversations side by side in rows of `seq_len` targets; a longer one has a row of its own, and loses its end.

    Each row is a dict of

    tokens: int32[seq_len], the inputs. targets: int32[seq_len], the same one place later within the conversation.
    segment_ids: int32[seq_len], 1, 2, ... for the conversations; 0 for padding.
    positions: int32[seq_len], counted from 0 within each.
    weights: float32[seq_len], the `labels` of the targets: 1 where the target is part of an answer, else 0.

    Args:
      part: the conversations, with the column `labels`.
      seq_len: targets of a row.
      seed: of the order.
      shuffled: training or validation.
    """

    def __init__(self, part: Split, *, seq_len: int, seed: int = 0, shuffled: bool):
        targets = np.diff(part.offsets) - 1
        rows = best_fit(np.minimum(targets, seq_len), seq_len)
        self._documents = np.argsort(rows, kind="stable")
        self._bounds = np.searchsorted(rows[self._documents], np.arange(rows.max() + 2))
        begins = part.offsets[:-1][targets > seq_len] + 1
        cut = (part.columns["labels"][a : a + seq_len] > 0 for a in begins)
        super().__init__(part, len(self._bounds) - 1, seed=seed, shuffled=shuffled, cut=cut)
        self._seq_len = seq_len

    def _row(self, number: int) -> Sample:
        row = {name: np.zeros(self._seq_len, np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
        row["weights"] = np.zeros(self._seq_len, np.float32)
        at, offsets = 0, self._part.offsets
        for segment, i in enumerate(self._documents[slice(*self._bounds[number : number + 2])], 1):
            places = slice(offsets[i], min(offsets[i + 1], offsets[i] + self._seq_len + 1))
            tokens, labels = self._part.tokens[places], self._part.columns["labels"][places]
            here = slice(at, at + len(tokens) - 1)
            row["tokens"][here], row["targets"][here], row["weights"][here] = tokens[:-1], tokens[1:], labels[1:]
            row["segment_ids"][here], row["positions"][here] = segment, np.arange(len(tokens) - 1)
            at = here.stop
        return row


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row that each of these lengths goes to: ints[len(lengths)], rows counted by their first entry.

    Args:
      lengths: at most `capacity` each.
      capacity: what the lengths in a row may sum to.
    """
    row_of, count = np.zeros(len(lengths), np.int64), 0
    rows_with, rooms = collections.defaultdict(list), []  # the rows that have a room left, and the rooms that there are
    for i in np.argsort(-lengths, kind="stable").tolist():
        place = bisect.bisect_left(rooms, lengths[i])
        if place == len(rooms):
            row, room, count = count, capacity, count + 1
        else:
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                rooms.pop(place)
        row_of[i], room = row, int(room - lengths[i])
        if room and not rows_with[room]:
            bisect.insort(rooms, room)
        if room:
            rows_with[room].append(row)
    _, first, named = np.unique(row_of, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[named]
