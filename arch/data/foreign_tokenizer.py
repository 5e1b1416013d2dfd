"""A published model's own tokenizer, of whatever kind: byte-level BPE, SentencePiece, WordPiece.

It is read from a folder as transformers writes it, or from the vocabulary that a GGUF file holds (`gguf_vocabulary`):

    tokenizer.json           the `tokenizers` library's file: what is text, and which special tokens go around it
    tokenizer_config.json    which token begins and ends a text; the chat template, or chat_template.jinja beside it
    generation_config.json  which ids end a generated text: an answer of a chat model may end otherwise than a text
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from arch.data import chat, tokenizer
from arch.data.enclosed import Enclosed

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
LIMIT = 64 * 2**20
"""Largest file in bytes; a vocabulary of 256 000 tokens has half of it."""
SPACE = "\u2581"
"""What SentencePiece writes for a space."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roles:
    """Which special tokens do what ('' for none), and the chat template ('' for none)."""

    bos_token: str = ""
    eos_token: str = ""
    unk_token: str = ""
    pad_token: str = ""
    cls_token: str = ""
    sep_token: str = ""
    mask_token: str = ""
    chat_template: str = ""


class Foreign(tokenizer.Subwords):
    """The same methods and attributes as `tokenizer.Bytes`, and `chat`.

    Args:
      made: a `tokenizers.Tokenizer`.
      roles: of its special tokens.
      separator: the token that opens each document in training; '' for `eos_token`, or `bos_token` without one.

      ends: ids that end a generated text besides that of `eos_token`.

    Raises:
      ValueError: a role's token, the separator or an end is no token.
    """

    def __init__(self, made, roles: Roles, separator: str = "", ends: Sequence[int] = ()):
        for name, token in [*dataclasses.asdict(roles).items(), ("tokenizer.separator", separator)]:
            if name != "chat_template" and token and made.token_to_id(token) is None:
                raise ValueError(f"{name}={token!r} must be one of the tokenizer's tokens")
        opener = separator or roles.eos_token or roles.bos_token or roles.sep_token
        if not opener:
            raise ValueError("tokenizer.separator='' must name a token: it has none that ends or begins texts")
        super().__init__(made, opener)
        self.roles = roles
        if outside := [i for i in ends if not 0 <= i < self.size]:
            raise ValueError(f"{outside[0]} ends a generated text, but must be an id from 0 to {self.size - 1}")
        own = [made.token_to_id(roles.eos_token)] if roles.eos_token else []
        self.stop = tuple(dict.fromkeys([*own, *ends])) or (self.separator,)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """int32[size]: how many bytes of text each id stands for, as the tokenizer normalises it; 0 for special tokens.

        Raises:
          ValueError: the tokenizer drops spaces (WordPiece), so that this is not defined.
        """
        stages = json.loads(self._tokenizer.to_str())
        if "ByteLevel" in json.dumps(stages["decoder"]):
            return super().token_bytes
        if stages["model"]["type"] not in ("BPE", "Unigram") or SPACE not in json.dumps(stages, ensure_ascii=False):
            raise ValueError(f"tokenizer of kind {stages['model']['type']} must keep spaces to count bytes of text")
        lengths = np.zeros(self.size, np.int32)
        for token, i in self._tokenizer.get_vocab().items():
            lengths[i] = 1 if re.fullmatch("<0x[0-9A-F]{2}>", token) else len(token.replace(SPACE, " ").encode())
        for i, token in self._tokenizer.get_added_tokens_decoder().items():
            lengths[i] = 0 if token.special else len(token.content.encode())
        return lengths

    def prompt(self, text: str) -> list[int]:
        """The ids of a text with the special tokens that the model wants around it."""
        ids = self._tokenizer.encode(text, add_special_tokens=True).ids
        return ids or [self.separator]

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a conversation, up to where the model's answer begins.

        Args:
          messages: each with a `role` ('system', 'user', 'assistant') and a `content`.

        Raises:
          ValueError: there is no chat template, or it cannot be rendered.
        """
        if not self.roles.chat_template:
            raise ValueError("the tokenizer has no chat template: it belongs to no chat model")
        names = {name: token for name, token in dataclasses.asdict(self.roles).items() if token}
        text = chat.render(names.pop("chat_template"), messages, **names)
        return self.spelled([text])[0].ids.tolist()

    def spelled(self, texts: Sequence[str]) -> list[Enclosed]:
        """The tokens of texts in which special tokens are spelled out and meant, as a chat template writes them."""
        self._tokenizer.encode_special_tokens = False
        try:
            return [Enclosed.of(found) for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        finally:
            self._tokenizer.encode_special_tokens = True

    def enclosed(self, documents: Sequence[tuple[str, ...]]) -> list[Enclosed]:
        """Each document, of one text or two, between the special tokens that the model wants, or the separator."""
        if not self._tokenizer.num_special_tokens_to_add(False):
            return super().enclosed(documents)
        texts = [parts if len(parts) > 1 else parts[0] for parts in documents]
        return [Enclosed.of(found) for found in self._tokenizer.encode_batch(texts, add_special_tokens=True)]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json into a folder."""
        super().save(folder)
        named = {name: token for name, token in dataclasses.asdict(self.roles).items() if token}
        text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | named, indent=2)
        (pathlib.Path(folder) / CONFIG).write_text(text, encoding="utf-8")


def read(path: str | os.PathLike, separator: str = "") -> Foreign:
    """The tokenizer of a published model.

    Args:
      path: a folder with tokenizer.json, or that file.
      separator: as in `Foreign`.

    Raises:
      ValueError: there is none, or it is damaged; the file is named.
    """
    from tokenizers import Tokenizer

    file = pathlib.Path(path)
    file = file / tokenizer.FILE if file.is_dir() else file
    made = _parsed(file, Tokenizer.from_str)
    beside = file.parent / CONFIG
    said = _object(beside)
    try:
        roles = {name: _content(name, said.get(name)) for name in Roles.__dataclass_fields__ if name != "chat_template"}
        template = _template(said.get("chat_template"))
    except ValueError as error:
        raise ValueError(f"{beside}: {error}") from None
    if (file.parent / TEMPLATE).exists():
        template = _parsed(file.parent / TEMPLATE, str)
    ends = _ends(file.parent / tokenizer.GENERATION)
    try:
        return Foreign(made, Roles(**roles, chat_template=template), separator, ends)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _object(file: pathlib.Path) -> dict:
    """The JSON object of a file, {} if it is absent."""
    held = _parsed(file, json.loads) if file.exists() else {}
    if not isinstance(held, dict):
        raise ValueError(f"{file}: must hold an object")
    return held


def _ends(file: pathlib.Path) -> list[int]:
    """The ids that end a generated text by a generation_config.json, which may be absent or say nothing."""
    found = _object(file).get("eos_token_id")
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(type(i) is int for i in ids):
        raise ValueError(f"{file}: eos_token_id={found!r} must be an id, or a list of ids")
    return ids


def _content(name: str, token: Any) -> str:
    """A special token in any of the ways that tokenizer_config.json has it. Raises ValueError at any other."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str | None):
        raise ValueError(f"{name}={token!r} must be a text, or an object whose content is one")
    return content or ""


def _template(found: Any) -> str:
    """The chat template, of several that which is called default. Raises ValueError if it is no text."""
    if isinstance(found, list):
        if not all(isinstance(entry, dict) for entry in found):
            raise ValueError(f"chat_template={found!r} must be a text, or a list of objects with name and template")
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), "")
    if not isinstance(found, str | None):
        raise ValueError(f"chat_template={found!r} must be a text, or a list of objects with name and template")
    return found or ""


def _parsed(file: pathlib.Path, parse):
    """What `parse` makes of a file's text. Raises ValueError, naming it, if it is absent, large or damaged."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    if (size := file.stat().st_size) > LIMIT:
        raise ValueError(f"{file} has {size} bytes: at most {LIMIT} are read")
    try:
        return parse(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{file} is damaged: {error}") from None
