"""One or two texts between the special tokens that a model which reads them whole wants: [CLS] A [SEP] B [SEP].

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3. A published tokenizer has its own; one that is made here has a
single special token, the separator, which stands for all three, unless its `specials` name '[CLS]' and '[SEP]'.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Enclosed(NamedTuple):
    """The tokens of a document of one or two texts.

    ids: the tokens.
    types: of each, what the model is told of which text it belongs to: 0 throughout where it is told nothing.
    parts: of each, which text it belongs to.
    starts, ends: the characters of its own text that each stands for; both 0 for special tokens. All ints[length].
    """

    ids: np.ndarray
    types: np.ndarray
    parts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def between(cls, maker: Any, parts: Sequence["Enclosed"]) -> "Enclosed":
        """The parts, each of a type of its own, between the special tokens of a tokenizer that was made here."""
        try:
            opens, closes = maker.special("[CLS]"), maker.special("[SEP]")
        except ValueError:
            opens = closes = maker.separator
        first, last = (cls(np.array([i]), *np.zeros((4, 1), np.int64)) for i in (opens, closes))
        runs = [first]
        for number, part in enumerate(parts):
            for one in (part, last):
                numbers = np.full(len(one.ids), number)
                runs.append(one._replace(types=numbers, parts=numbers))
        return cls(*(np.concatenate(column) for column in zip(*runs)))

    @classmethod
    def of(cls, encoding: Any) -> "Enclosed":
        """What an encoding of the `tokenizers` library says."""
        ordinary = 1 - np.array(encoding.special_tokens_mask)
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2) * ordinary[:, None]
        return cls(np.array(encoding.ids), np.array(encoding.type_ids), _parts(encoding.sequence_ids), *spans.T)


def _parts(sequences: Sequence[int | None]) -> np.ndarray:
    """The text of each token: a special one (None) closes that before it, or opens the next behind another special."""
    found = np.array([-1 if i is None else i for i in sequences], np.int64)
    before = np.maximum.accumulate(np.maximum(found, 0))
    behind = np.minimum.accumulate(np.where(found < 0, before[-1:], found)[::-1])[::-1]
    special = found < 0
    return np.where(special & np.roll(special, 1) & (np.arange(len(found)) > 0), behind, before)
