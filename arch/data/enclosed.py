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
    types: of each, which part of the input it belongs to.
    starts, ends: the characters of its own text that each stands for; both 0 for special tokens. All ints[length].
    """

    ids: np.ndarray
    types: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def between(cls, maker: Any, parts: Sequence["Enclosed"]) -> "Enclosed":
        """The parts, each of a type of its own, between the special tokens of a tokenizer that was made here."""
        try:
            opens, closes = maker.special("[CLS]"), maker.special("[SEP]")
        except ValueError:
            opens = closes = maker.separator
        first, last = (cls(np.array([i]), *np.zeros((3, 1), np.int64)) for i in (opens, closes))
        runs = [first]
        for number, part in enumerate(parts):
            runs += [one._replace(types=np.full(len(one.ids), number)) for one in (part, last)]
        return cls(*(np.concatenate(column) for column in zip(*runs)))

    @classmethod
    def of(cls, encoding: Any) -> "Enclosed":
        """What an encoding of the `tokenizers` library says."""
        ordinary = 1 - np.array(encoding.special_tokens_mask)
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2) * ordinary[:, None]
        return cls(np.array(encoding.ids), np.array(encoding.type_ids), *spans.T)
