"""Conversations as tokens, of which those of the answers are marked: what supervised fine-tuning counts.

A published tokenizer's chat template writes the text; which of its characters are answers, `chat.answers` finds. A
token belongs to an answer if it begins in one. Without a template a conversation is

    <s> role \\n content  <s> role \\n content  <s>

where <s> is the tokenizer's separator, the one token that is no text. An answer is its content and the separator
behind it, which ends a generated text. Chung et al., "Scaling Instruction-Finetuned Language Models", 2022, arXiv
2210.11416, sec. 2.3, and Ouyang et al., 2022, arXiv 2203.02155, train on pairs of prompt and answer; that the loss
leaves the prompt out is usual since.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from arch.data import chat, foreign_tokenizer, tokenizer
from arch.data.labelled import Labelled


def encode(maker: tokenizer.Tokenizer, documents: Sequence[Labelled]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens of each conversation, and 1 where they are part of an answer: ints[length] twice.

    Raises:
      ValueError: the chat template cannot write a conversation, which is named.
    """
    return _by_template(maker, documents) if has_template(maker) else _plain(maker, documents)


def has_template(maker: tokenizer.Tokenizer) -> bool:
    """Whether a tokenizer says how conversations are written."""
    return isinstance(maker, foreign_tokenizer.Foreign) and bool(maker.roles.chat_template)


def prompt(maker: tokenizer.Tokenizer, messages: Sequence[dict[str, str]]) -> list[int]:
    """The ids of a conversation up to where the model's answer begins.

    Args:
      maker: the tokenizer.
      messages: each with a `role` and a `content`.
    """
    if has_template(maker):
        return maker.chat(messages)
    turns = [[maker.separator, *maker.encode(f"{m['role']}\n"), *maker.encode(m["content"])] for m in messages]
    return [*itertools.chain(*turns), maker.separator, *maker.encode("assistant\n")]


def question(maker: tokenizer.Tokenizer, text: str) -> list[int]:
    """The ids of a conversation in which a user says this, up to where the model's answer begins."""
    return prompt(maker, [{"role": "user", "content": text}])


def _by_template(maker, documents: Sequence[Labelled]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    names = {name: token for name, token in dataclasses.asdict(maker.roles).items() if token}
    talks = [
        [{"role": role, "content": content} for role, content in zip(document.labels, document.parts)]
        for document in documents
    ]
    called = [document.name for document in documents]
    written = list(chat.answers(names.pop("chat_template"), talks, called, **names))
    for found, (_, spans) in zip(maker.spelled([text for text, _ in written]), written, strict=True):
        marks = np.zeros(len(found.ids), np.int64)
        for begin, end in spans:
            marks |= (begin <= found.starts) & (found.starts < end)
        yield found.ids, marks


def _plain(maker, documents: Sequence[Labelled]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    contents = iter(maker.encode_batch(list(itertools.chain(*(document.parts for document in documents)))))
    opens = {role: maker.encode(f"{role}\n") for document in documents for role in document.labels}
    for document in documents:
        tokens, marks, ends_answer = [], [], 0
        for role, content in zip(document.labels, itertools.islice(contents, len(document.parts))):
            answers = int(role == "assistant")
            tokens += [maker.separator, *opens[role], *content]
            marks += [ends_answer, *[0] * len(opens[role]), *[answers] * len(content)]
            ends_answer = answers
        yield np.array([*tokens, maker.separator], np.int64), np.array([*marks, ends_answer], np.int64)
