"""Labelled documents: what a record of classes, of tags or of a conversation says.

    kind       a record                                              parts           labels
    classes    {"text": "...", "label": "..."}, or two texts         the texts       the one class
    tags       {"tokens": ["...", ...], "tags": ["...", ...]}        the words       a tag for each
    chat       {"messages": [{"role": "...", "content": "..."}]}     the contents    the roles

Which fields these are, the config says. A label is a text or an integer; a list of messages may be written as JSON.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["text", "chat", "classes", "tags"]

MAX_LABELS = 2**16
"""More than these are texts and no labels."""


class Labelled(NamedTuple):
    """A document with labels.

    name: as a text's.
    text: all that is in it, by which it is counted and a tokenizer trained.
    parts: texts, words or contents.
    labels: classes, tags or roles.
    """

    name: str
    text: str
    parts: tuple[str, ...]
    labels: tuple[str, ...]


def fields(kind: Kind, cfg: Any) -> dict[str, str]:
    """The fields of a record that are read, by the leaf of the `corpus.Config` that names them."""
    leaves = {
        "text": ["field"],
        "chat": ["field"],
        "tags": ["field", "label_field"],
        "classes": ["field", "label_field", *(["pair_field"] if cfg.pair_field else [])],
    }
    return {leaf: getattr(cfg, leaf) for leaf in leaves[kind]}


def document(kind: Kind, name: str, values: Mapping[str, Any]) -> Labelled:
    """The document that a record is.

    Args:
      kind: 'classes', 'tags' or 'chat'.
      name: of the document.
      values: of the record's fields, by the leaf that names them.

    Raises:
      ValueError: a value is not of the form above; the document, the leaf and the value are named.
    """
    try:
        parts, labels = {"classes": _classes, "tags": _tags, "chat": _chat}[kind](**values)
    except ValueError as error:
        raise ValueError(f"document {name!r}: {error}") from None
    return Labelled(name, (" " if kind == "tags" else "\n").join(parts), parts, labels)


def record(kind: Kind, document: Labelled) -> dict[str, Any]:
    """The record that `document` reads so, its fields called by the leaves that name them."""
    if kind == "chat":
        return {"field": [{"role": role, "content": text} for text, role in zip(document.parts, document.labels)]}
    if kind == "tags":
        return {"field": document.parts, "label_field": document.labels}
    return dict(zip(("field", "pair_field"), document.parts)) | {"label_field": document.labels[0]}


def names(documents: Iterable[Labelled]) -> dict[str, int]:
    """The labels that occur, with their ids from 0: integers by value, then texts by their characters.

    Raises:
      ValueError: there are more than MAX_LABELS.
    """
    found: set[str] = set()
    for document in documents:
        found.update(document.labels)
        if len(found) > MAX_LABELS:
            raise ValueError(f"data.label_field must hold labels: more than {MAX_LABELS} differ by {document.name!r}")
    return {label: i for i, label in enumerate(sorted(found, key=_place))}


def ids(document: Labelled, known: Mapping[str, int]) -> list[int]:
    """The ids of a document's labels.

    Raises:
      ValueError: a label that the train split lacks.
    """
    for label in document.labels:
        if label not in known:
            shown = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
            raise ValueError(f"document {document.name!r}: label {label!r} must occur in the train split: {shown}")
    return [known[label] for label in document.labels]


def _place(label: str) -> tuple:
    return (0, int(label), label) if label.removeprefix("-").isdecimal() else (1, 0, label)


def _classes(field, label_field, **pair) -> tuple[tuple, tuple]:
    parts = {"field": field} | pair
    for leaf, text in parts.items():
        if not isinstance(text, str):
            raise ValueError(f"data.{leaf} must hold a text, and not {text!r}")
    return tuple(parts.values()), (_label(label_field),)


def _tags(field, label_field) -> tuple[tuple, tuple]:
    if not isinstance(field, list) or not all(isinstance(word, str) for word in field):
        raise ValueError(f"data.field must hold a list of words, and not {_short(field)}")
    if not isinstance(label_field, list) or len(label_field) != len(field):
        count = len(field)
        raise ValueError(f"data.label_field must hold a tag for each of {count} words, and not {_short(label_field)}")
    return tuple(field), tuple(map(_label, label_field))


def _label(value) -> str:
    if not isinstance(value, (str, int)):
        raise ValueError(f"data.label_field must hold labels, texts or integers, and not {_short(value)}")
    return str(value)


def _chat(field) -> tuple[tuple, tuple]:
    try:
        messages = json.loads(field) if isinstance(field, str) else field
    except json.JSONDecodeError:
        messages = field
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"data.field must hold a list of messages, and not {_short(field)}")
    for message in messages:
        held = {name: value for name, value in message.items() if value is not None}
        if held.keys() != {"role", "content"} or not all(isinstance(value, str) for value in held.values()):
            raise ValueError(f"a message must be a role and a content, both texts, and nothing else: {_short(held)}")
    roles = tuple(message["role"] for message in messages)
    if "assistant" not in roles:
        raise ValueError(f"a conversation must have an answer, a message of role 'assistant': its roles are {roles}")
    return tuple(message["content"] for message in messages), roles


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
