"""Documents as tokens, and labelled ones with a label for each token: -1 where there is none.

    text      [separator] text           no labels
    classes   [CLS] A [SEP] B [SEP]      the class at the first token
    tags      [CLS] words [SEP]          a word's tag at its first token (Devlin et al., BERT, 2018, arXiv 1810.04805,
                                         sec. 5.3); words that the tokenizer makes nothing of have none
    chat      see `conversations`        1 where a token is part of an answer, 0 elsewhere
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from arch.data import conversations, labelled, tokenizer
from arch.data.corpus import Document
from arch.data.labelled import Kind, Labelled

Columns = dict[str, np.ndarray]


def encode(
    kind: Kind, maker: tokenizer.Tokenizer, documents: Sequence[Document | Labelled], known: Mapping[str, int]
) -> Iterable[Columns]:
    """Each document's `tokens`, and of a labelled one its `labels`, `token_types` and `parts`: ints[length] each.

    Args:
      kind: what the documents are.
      maker: the tokenizer.
      documents: of that kind.
      known: the ids of the labels of 'classes' and 'tags'.

    Raises:
      ValueError: a label is not known, or the chat template cannot write a conversation.
    """
    if kind == "text":
        texts = maker.encode_batch([document.text for document in documents])
        return ({"tokens": np.concatenate([[maker.separator], ids])} for ids in texts)
    if kind == "chat":
        return [
            {"tokens": tokens, "labels": labels, **dict.fromkeys(("token_types", "parts"), np.zeros_like(labels))}
            for tokens, labels in conversations.encode(maker, documents)
        ]
    return _whole(kind, maker, documents, known)


def _whole(kind: Kind, maker, documents: Sequence[Labelled], known: Mapping[str, int]) -> Iterator[Columns]:
    """Documents that a model reads whole."""
    texts = [document.parts if kind == "classes" else (document.text,) for document in documents]
    for document, enclosed in zip(documents, maker.enclosed(texts), strict=True):
        ids, labels = labelled.ids(document, known), np.full(len(enclosed.ids), -1)
        places = [0] if kind == "classes" else _first_tokens(document.parts, enclosed.starts, enclosed.ends)
        for place, label in zip(places[::-1], ids[::-1]):  # of words that share a token, the first is left
            if place >= 0:
                labels[place] = label
        yield {"tokens": enclosed.ids, "labels": labels, "token_types": enclosed.types, "parts": enclosed.parts}


def _first_tokens(words: Sequence[str], starts: np.ndarray, ends: np.ndarray) -> list[int]:
    """The place of each word's first token among those of the words with single spaces between; -1 for none."""
    places, begin, ends = [], 0, np.maximum.accumulate(ends)
    for word in words:
        place = int(np.searchsorted(ends, begin, side="right"))  # the first token that ends behind the word's begin
        places.append(place if place < len(starts) and starts[place] < begin + len(word) else -1)
        begin += len(word) + 1
    return places
