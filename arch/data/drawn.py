"""Rows that a program draws, of symbols instead of text: a data set that is a function of its seed.

Each row is [t + 1] symbols, of which the first t are read and the last t are asked for, those that have a weight; or
it is any number of symbols, of which all are read, and has a class.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from arch.data import rows, token_files
from arch.data.tokenized import Tokenized
from arch.typing import Float, Int


class Symbols:
    """What stands for a tokenizer where there is no text: symbols with names, written with spaces between them.

    Args:
      names: of the symbols, by id.
    """

    special_ids = stop = ()

    def __init__(self, names: Sequence[str]):
        self._names = tuple(names)
        self.size = len(self._names)

    def encode(self, text: str) -> list[int]:
        """The ids of names. Raises ValueError for one that is none."""
        words = text.split()
        if unknown := [word for word in words if word not in self._names]:
            raise ValueError(f"{unknown[0]!r} must be one of the symbols {' '.join(self._names)}")
        return list(map(self._names.index, words))

    prompt = encode

    def decode(self, ids: Iterable) -> str:
        """The names of the ids."""
        return " ".join(self._names[int(i)] for i in ids)


class Rows(rows.Rows):
    """Rows of a split by index, each a dict of

    tokens: int32[t], the symbols that are read. targets: int32[t], the same one place later.
    positions: int32[t], from 0. weights: float32[t], of the targets.
    """

    def __init__(self, part: token_files.Split, *, seed: int = 0, shuffled: bool):
        count = len(part.offsets) - 1
        super().__init__(part, count, seed=seed, shuffled=shuffled, cut=())
        self._tokens, self._weights = (array.reshape(count, -1) for array in (part.tokens, part.columns["weights"]))

    def _row(self, number: int) -> rows.Sample:
        tokens, weights = self._tokens[number], self._weights[number]
        places = np.arange(len(tokens) - 1, dtype=np.int32)
        return {"tokens": tokens[:-1], "targets": tokens[1:], "weights": weights[1:], "positions": places}


def tokenized(symbols: Symbols, **splits: tuple[Int[np.ndarray, "_ t"], Float[np.ndarray, "_ t"]]) -> Tokenized:
    """Drawn rows as the data of a run.

    Args:
      symbols: what the ids are called.
      **splits: by name ids [n t + 1] of symbols, and their weights [n t + 1] as targets.
    """
    made, digest = {}, hashlib.sha256()
    for name, (tokens, weights) in splits.items():
        tokens, weights = np.asarray(tokens, np.int32), np.asarray(weights, np.float32)
        offsets = np.arange(len(tokens) + 1) * tokens.shape[1]
        made[name] = token_files.Split(tokens.ravel(), offsets, 0, (len(tokens),), {"weights": weights.ravel()})
        digest.update(tokens.tobytes() + weights.tobytes())
    return Tokenized(symbols, made, digest.hexdigest(), {})


def classified(
    symbols: Symbols, classes: Sequence[str], **splits: tuple[Sequence[np.ndarray], Sequence[int]]
) -> Tokenized:
    """Rows of any lengths, with a class each, as the data of a run: what `rows.Documents` reads.

    Args:
      symbols: what the ids are called.
      classes: their names.
      **splits: by name the ids of each row, and the number of its class.
    """
    made, digest = {}, hashlib.sha256()
    for name, (drawn, numbers) in splits.items():
        offsets = np.cumsum([0, *map(len, drawn)])
        tokens = np.concatenate(drawn).astype(np.min_scalar_type(symbols.size - 1))
        labels = np.full(len(tokens), -1, np.min_scalar_type(-len(classes)))
        labels[offsets[:-1]] = numbers
        made[name] = token_files.Split(tokens, offsets, 0, (len(drawn),), {"labels": labels})
        digest.update(offsets.tobytes() + tokens.tobytes() + labels.tobytes())
    return Tokenized(symbols, made, digest.hexdigest(), {"labels": list(classes)})
