"""A corpus tokenised once into a folder: flat token files that are memory-mapped, and tables of document offsets.

    meta.json  tokenizer.json  train.tokens.npy  train.offsets.npy  valid.tokens.npy  valid.offsets.npy

of labelled data also train.labels.npy ..., one number for each token (`document_tokens`), and of two texts to classify
train.token_types.npy and train.parts.npy ... meta.json then names the labels in the order of their ids, those of the
train split. A published tokenizer brings tokenizer_config.json and generation_config.json. A split's stream is each
document as [separator] + tokens, one after another; document j is `tokens[offsets[j]:offsets[j + 1]]`. The separator
opens its document, and is the target of the last token of the one before. (Labelled documents have their own special
tokens.) The folder appears under its name only when it is whole, and from then on the text is no longer needed.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import sys
from typing import Annotated, NamedTuple

import numpy as np

from arch import config
from arch.data import corpus, labelled, token_files, tokenizing
from arch.data import tokenizer as tokenizers
from arch.data.tokenizing import FORMAT_VERSION, SPLITS


@config.frozen
class Part(corpus.Config):
    """A source of a mixture."""

    weight: config.PositiveFloat = 1.0
    """Share of the training samples that come from it, relative to the other weights."""


@config.frozen
class Config(corpus.Config):
    """Which text, or mixture of texts, and how it is cut into documents, splits and tokens."""

    kind: labelled.Kind = "text"
    """What the documents are: text, conversations, texts of a class each, or words with a tag each (`labelled`)."""
    valid_fraction: Annotated[float, config.Range(0, 0.5, open=True)] = 0.05
    """Fraction of each source's documents, by the hash of their names, kept for validation."""
    tokenizer: tokenizers.Config = tokenizers.Config()
    tokenizer_max_bytes: Annotated[int, config.Range(1)] = 100_000_000
    """Bytes of the train split that a tokenizer is trained on, at most; a mixture's sources share them by weight."""
    mixture: tuple[Part, ...] = ()
    """Several sources instead of the one that `path` names; () for that one."""

    def check(self):
        for i, source in enumerate(self.sources()):
            if source.pair_field and self.kind != "classes":
                name = f"mixture[{i}].pair_field" if self.mixture else "pair_field"
                raise ValueError(f"{name}={source.pair_field!r} must be '' with kind={self.kind!r}: it has no pairs")
        for field in dataclasses.fields(corpus.Config) if self.mixture else ():
            if (value := getattr(self, field.name)) != field.default:
                raise ValueError(f"{field.name}={value!r} must be left out with a mixture: its sources have their own")

    def sources(self) -> tuple[corpus.Config, ...]:
        """The corpora that are read."""
        names = [field.name for field in dataclasses.fields(corpus.Config)]
        return self.mixture or (corpus.Config(**{name: getattr(self, name) for name in names}),)

    def columns(self) -> tuple[str, ...]:
        """What goes with each token."""
        pairs = any(source.pair_field for source in self.sources())
        return () if self.kind == "text" else ("labels", "token_types", "parts") if pairs else ("labels",)

    def weights(self) -> tuple[float, ...]:
        """Of the sources."""
        return tuple(part.weight for part in self.mixture) or (1.0,)


class Tokenized(NamedTuple):
    """An opened folder.

    tokenizer: what made the tokens.
    splits: 'train' and 'valid' to their `token_files.Split`.
    fingerprint: SHA-256 of the config, the tokenizer, all tokens and what goes with them, hexadecimal; put it into
      checkpoints.
    meta: what meta.json holds: the config asked for, the labels, and documents, tokens and bytes of each split.
    """

    tokenizer: tokenizers.Tokenizer
    splits: dict[str, token_files.Split]
    fingerprint: str
    meta: dict


def prepare(cfg: Config, folder: str | os.PathLike) -> Tokenized:
    """Opens the folder, after tokenising the corpus into it if it does not exist yet.

    Raises:
      ValueError: the text cannot be read or split, or the folder holds other data than `cfg` asks for.
      OSError: a file cannot be read or written, or the disk is full, naming where.
    """
    folder = pathlib.Path(folder)
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed here
            partial.mkdir(parents=True)
            tokenizing.write(cfg, partial)
            os.replace(partial, folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), error.filename or str(folder)) from error
    return load(folder, cfg)


def load(folder: str | os.PathLike, cfg: Config | None = None) -> Tokenized:
    """Opens a folder that `prepare` made, without its source text.

    Args:
      folder: the folder.
      cfg: what it is asked to hold; None to take it as it is.

    Raises:
      ValueError: the folder is damaged or of another format, or holds other data than `cfg` asks for: the message
        names the first field that differs.
    """
    folder = pathlib.Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version={meta['format_version']} must be {FORMAT_VERSION}")
        if cfg is not None:
            _same("data", meta["config"], json.loads(json.dumps(config.to_dict(cfg))), folder)
        splits = {name: token_files.read(folder, name, meta["splits"][name]) for name in SPLITS}
        tokenizer = tokenizers.saved(folder, meta["config"]["tokenizer"]["kind"], meta["separator"])
        return Tokenized(tokenizer, splits, meta["fingerprint"], meta)
    except config.ConfigError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(folder)!r} must be a whole folder of tokenised text ({error}): delete it to tokenise again"
        ) from None


def all_valid(cfg: Config) -> Tokenized:
    """All of the text as the split 'valid', a file a document, in memory: to measure a model trained elsewhere.

    Raises:
      ValueError: the text cannot be read, the tokenizer would have to be trained on it, or its labels belong to a run.
    """
    if cfg.kind in ("classes", "tags"):
        raise ValueError(f"data.kind={cfg.kind!r} must be 'text' or 'chat' here: the ids of labels are a train split's")
    if cfg.tokenizer.kind == "bpe" and not cfg.tokenizer.path:
        raise ValueError("data.tokenizer.path='' must name the tokenizer of the model that is measured")
    maker = cfg.tokenizer.make(())
    whole = (corpus.read(source.replace(piece_chars=sys.maxsize), cfg.kind) for source in cfg.sources())
    pieces, num_bytes = [], 0
    for document, columns in tokenizing.encoded(cfg.kind, maker, itertools.chain.from_iterable(whole), {}):
        pieces.append(columns)
        num_bytes += len(document.text.encode())
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in ("tokens", *cfg.columns())}
    offsets = np.cumsum([0, *(len(piece["tokens"]) for piece in pieces)], dtype=np.int64)
    tokens = joined.pop("tokens").astype(token_files.dtype(maker))
    split = token_files.Split(tokens, offsets, num_bytes, (len(pieces),), joined)
    return Tokenized(maker, {"valid": split}, "", {"config": config.to_dict(cfg), "labels": []})


def _same(path: str, held, asked, folder: pathlib.Path) -> None:
    """Raises ConfigError naming the first leaf in which what is held differs from what is asked."""
    if isinstance(held, dict) and isinstance(asked, dict):
        for key in [*asked, *(key for key in held if key not in asked)]:
            _same(f"{path}.{key}", held.get(key), asked.get(key), folder)
    elif held != asked:
        raise config.ConfigError(
            f"{path}={asked!r} must be {held!r}, of which {str(folder)!r} was made: "
            "keep it, or take another workdir for other data"
        )
