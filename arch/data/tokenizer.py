"""Text to token ids and back: raw bytes, byte-pair encoding trained on the corpus, or a published model's tokenizer.

The first two work on UTF-8 bytes, so any text can be encoded and `decode(encode(text)) == text`; for the third see
`foreign_tokenizer`. One id, the separator, opens each document and stands for no text; each id in `stop`
ends a generated text. Byte-pair encoding merges the most frequent neighbours again and again
(Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016, arXiv:1508.07909), here
over bytes (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2), with the
`tokenizers` library.
"""

import functools
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np

from arch import config
from arch.data.enclosed import Enclosed

FILE, GENERATION = "tokenizer.json", "generation_config.json"
_BYTE = {"type": "byte", "version": 1}


@config.frozen
class Config(config.Config):
    """Which tokenizer: bytes, one trained here on the train split, or one read from a file."""

    kind: Literal["byte", "bpe", "pretrained"] = "byte"
    vocab_size: Annotated[int, config.Range(0, 2**22)] = 0
    """Ids of a trained BPE, special tokens and 256 bytes included (fewer if the text has no more pairs to merge). The
    trainer lays out a table of so many entries first."""
    path: str = ""
    """A byte-level tokenizer.json, or a folder with one, to be used instead of training; with kind='pretrained' that of
    a published model, of any kind, or a GGUF file."""
    separator: str = "<|endoftext|>"
    """The special token that opens each document; with kind='pretrained' '' is the model's own."""
    specials: tuple[str, ...] = ()
    """More special tokens, which stand for no text: what a task marks its samples with ('[MASK]', '<extra_id_0>' ...).
    A published model's tokenizer has its own."""

    def check(self):
        if self.kind == "byte" and (self.vocab_size or self.path):
            field = f"vocab_size={self.vocab_size}" if self.vocab_size else f"path={self.path!r}"
            raise ValueError(f"{field} must be left out with kind='byte', which always has {Bytes.size} ids")
        if self.kind == "pretrained" and self.vocab_size:
            raise ValueError(f"vocab_size={self.vocab_size} must be left out with kind='pretrained', which has its own")
        if self.kind == "pretrained" and self.specials:
            raise ValueError(f"specials={self.specials} must be left out with kind='pretrained', which has its own")
        if "" in self.specials or len({*self.specials, self.separator}) != len(self.specials) + 1:
            raise ValueError(f"specials={self.specials} must be different texts, none of them '' or the separator")
        if self.kind == "bpe" and bool(self.path) == bool(self.vocab_size):
            rule = "vocab_size must be 0 where a path is given" if self.path else "one of them must be given"
            raise ValueError(f"vocab_size={self.vocab_size} and path={self.path!r} with kind='bpe': {rule}")
        least = Bytes.size + len(self.specials)
        if self.kind == "bpe" and not self.path and self.vocab_size < least:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least {least}: all bytes and special tokens")

    def make(self, texts: Iterable[str]) -> "Tokenizer":
        """The tokenizer; `texts` (the train split) is read only when one has to be trained."""
        if self.kind == "byte":
            return Bytes(self.specials)
        if self.kind == "pretrained":
            return read_pretrained(self.path, self.separator)
        if self.path:
            return read(self.path, self.separator, self.specials)
        return train(texts, self.vocab_size, self.separator, self.specials)


class Bytes:
    """One id a byte, 0 to 255, 256 for the separator, and behind it those of more special tokens."""

    size = 257
    separator = 256
    stop = (separator,)

    def __init__(self, specials: Iterable[str] = ()):
        self._specials = tuple(specials)
        self.size = Bytes.size + len(self._specials)

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids that stand for no text."""
        return tuple(range(256, self.size))

    def special(self, text: str) -> int:
        """The id of a special token. Raises ValueError when there is none of this text."""
        if text not in self._specials:
            raise _lacking(text, self._specials)
        return Bytes.size + self._specials.index(text)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """int32[size]: how many bytes of text each id stands for; 0 for the separator."""
        return np.array([1] * 256 + [0] * len(self.special_ids), np.int32)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no separator added."""
        return list(text.encode())

    def prompt(self, text: str) -> list[int]:
        """The ids that a text to be continued begins with."""
        return [self.separator, *self.encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, as int32 arrays."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def enclosed(self, documents: Sequence[tuple[str, ...]]) -> list[Enclosed]:
        """Each document, of one text or two, between its special tokens."""
        return [Enclosed.between(self, list(map(self._bare, parts))) for parts in documents]

    def _bare(self, text: str) -> Enclosed:
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        starts = np.cumsum(ids & 0xC0 != 0x80) - 1  # the first bytes of characters
        return Enclosed(ids, *np.zeros((2, len(ids)), np.int64), starts, starts + 1)

    def decode(self, ids: Iterable) -> str:
        """The text of the ids; separators are dropped, broken UTF-8 becomes U+FFFD."""
        return bytes(int(i) for i in ids if i < 256).decode("utf-8", "replace")

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json into a folder."""
        held = _BYTE | {"specials": self._specials}
        (pathlib.Path(folder) / FILE).write_text(json.dumps(held), encoding="utf-8")


class Subwords:
    """A tokenizer of the `tokenizers` library; the same methods and attributes as `Bytes`.

    Args:
      made: the library's object.
      separator: the token that opens a document.
    """

    def __init__(self, made, separator: str):
        made.encode_special_tokens = True  # a text that spells a special token is text
        made.no_truncation()
        made.no_padding()
        self._tokenizer = made
        self.size = max(made.get_vocab().values()) + 1
        self.separator = made.token_to_id(separator)
        self.stop = (self.separator,)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """int32[size]: how many bytes of text each id stands for; 0 for special tokens."""
        lengths = np.zeros(self.size, np.int32)
        for token, i in self._tokenizer.get_vocab().items():
            lengths[i] = len(token)  # the byte alphabet spells each byte with one character
        for i, token in self._tokenizer.get_added_tokens_decoder().items():
            lengths[i] = 0 if token.special else len(token.content.encode())
        return lengths

    @functools.cached_property
    def special_ids(self) -> tuple[int, ...]:
        """The ids that stand for no text, ascending."""
        return tuple(sorted(self._special_tokens().values()))

    def special(self, text: str) -> int:
        """The id of a special token. Raises ValueError when there is none of this text."""
        known = self._special_tokens()
        if text not in known:
            raise _lacking(text, known)
        return known[text]

    def _special_tokens(self) -> dict[str, int]:
        return {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no separator added."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, text: str) -> list[int]:
        """The ids that a text to be continued begins with."""
        return [self.separator, *self.encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, as int32 arrays."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def enclosed(self, documents: Sequence[tuple[str, ...]]) -> list[Enclosed]:
        """Each document, of one text or two, between its special tokens."""
        encodings = iter(self._tokenizer.encode_batch(list(itertools.chain(*documents)), add_special_tokens=False))
        parts = ([Enclosed.of(encoding) for encoding in itertools.islice(encodings, len(texts))] for texts in documents)
        return [Enclosed.between(self, part) for part in parts]

    def decode(self, ids: Iterable) -> str:
        """The text of the ids; special tokens are dropped, broken UTF-8 becomes U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json, in the `tokenizers` library's own format, and generation_config.json into a folder."""
        (pathlib.Path(folder) / FILE).write_text(self._tokenizer.to_str(), encoding="utf-8")
        ends = self.stop[0] if len(self.stop) == 1 else list(self.stop)
        (pathlib.Path(folder) / GENERATION).write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")


class BPE(Subwords):
    """Byte-level byte-pair encoding.

    Raises:
      ValueError: the tokenizer is not byte-level, or has no such separator.
    """

    def __init__(self, made, separator: str):
        stages = json.loads(made.to_str())
        if "ByteLevel" not in json.dumps(stages["decoder"]):
            raise ValueError(f"tokenizer of decoder {stages['decoder']} must be byte-level, so that any text has ids")
        special = [token["content"] for token in stages["added_tokens"] if token["special"]]
        if separator not in special:
            raise ValueError(f"tokenizer.separator={separator!r} must be one of the special tokens {special}")
        super().__init__(made, separator)


Tokenizer = Bytes | Subwords


def _lacking(text: str, known: Iterable[str]) -> ValueError:
    return ValueError(
        f"{text!r} must be a special token of the tokenizer; there are {', '.join(map(repr, known)) or 'none'}: "
        "data.tokenizer.specials adds some to one that is made here"
    )


def train(
    texts: Iterable[str], vocab_size: int, separator: str = Config.separator, specials: Sequence[str] = ()
) -> BPE:
    """A byte-pair encoding of `vocab_size` ids at most.

    They are the separator, the 256 bytes, merges by frequency, and behind them the other special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        special_tokens=[separator],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(specials))
    return BPE(tokenizer, separator)


def saved(folder: str | os.PathLike, kind: str, separator: str) -> Tokenizer:
    """The tokenizer that a config of this `kind` and `separator` made and saved into a folder."""
    return read_pretrained(folder, separator) if kind == "pretrained" else read(folder, separator)


def read_pretrained(path: str | os.PathLike, separator: str = "") -> Subwords:
    """A published model's own tokenizer, of a folder, a tokenizer.json or a GGUF file.

    Raises:
      ValueError: there is none at `path`, or it is damaged.
    """
    from arch.data import foreign_tokenizer, gguf_header, gguf_vocabulary

    if not path:
        raise ValueError("tokenizer.path='' must name a published model: --config.init_from=PATH says which")
    if str(path).endswith(".gguf"):
        return gguf_vocabulary.read(gguf_header.read(path).metadata, str(path), separator)
    return foreign_tokenizer.read(path, separator)


def read(path: str | os.PathLike, separator: str = Config.separator, specials: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of the folder that holds one: what `save` wrote, or any byte-level one.

    Args:
      path: the file or folder.
      separator: the token that opens a document.
      specials: tokens that are added if they are not there.

    Raises:
      ValueError: there is no such file, it is no tokenizer, it is not byte-level, or it lacks the separator.
    """
    file = pathlib.Path(path)
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"tokenizer.path={str(path)!r} must be a {FILE} or a folder with one: there is none")
    text = file.read_text(encoding="utf-8")
    try:
        held = json.loads(text)
        if held.items() >= _BYTE.items():
            return Bytes(dict.fromkeys([*held.get("specials", ()), *specials]))
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.add_special_tokens(list(specials))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{str(file)!r} must be a {FILE} of the tokenizers library: {error}") from None
    return BPE(tokenizer, separator)
