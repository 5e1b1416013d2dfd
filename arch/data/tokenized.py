"""A corpus tokenised once into a folder: flat token files that are memory-mapped, and tables of document offsets.

    meta.json  tokenizer.json  train.tokens.npy  train.offsets.npy  valid.tokens.npy  valid.offsets.npy

A split's stream is each document as [separator] + tokens, one after another; document j is
`tokens[offsets[j]:offsets[j + 1]]`. The separator opens its document, and is the target of the last token of the one
before. The folder appears under its name only when it is whole, and from then on the text is no longer needed.
"""

import hashlib
import itertools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable
from typing import Annotated, NamedTuple

import numpy as np

from arch import config
from arch.data import corpus
from arch.data import tokenizer as tokenizers

FORMAT_VERSION = 1
SPLITS = ("train", "valid")


@config.frozen
class Config(config.Config):
    """Which text, and how it is cut into documents, splits and tokens."""

    path: str = ""
    """'' for the standard library's source, or a text file, or a folder of text files."""
    suffixes: tuple[str, ...] = ()
    """Endings of the files to read in a folder; () for all."""
    max_bytes: config.NonNegativeInt = 0
    """Byte budget; 0 for no limit."""
    piece_chars: config.PositiveInt = 8192
    """Characters of the documents that a single file is cut into."""
    valid_fraction: Annotated[float, config.Range(0, 0.5, open=True)] = 0.05
    """Fraction of the documents, by the hash of their names, kept for validation."""
    tokenizer: tokenizers.Config = tokenizers.Config()


class Split(NamedTuple):
    """One split on disk.

    tokens: uint16[tokens] or uint32[tokens], memory-mapped, separators included.
    offsets: int64[documents + 1], where each document begins in `tokens`, and the end.
    num_bytes: bytes of text in the split.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    num_bytes: int


class Tokenized(NamedTuple):
    """An opened folder.

    tokenizer: what made the tokens.
    splits: 'train' and 'valid' to their `Split`.
    fingerprint: SHA-256 of the config, the tokenizer and all tokens, hexadecimal; put it into checkpoints.
    meta: what meta.json holds: the config asked for, and documents, tokens and bytes of each split.
    """

    tokenizer: tokenizers.Tokenizer
    splits: dict[str, Split]
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
            _write(cfg, partial)
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
        splits = {name: _open(folder, name, meta["splits"][name]) for name in SPLITS}
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
      ValueError: the text cannot be read, or the tokenizer would have to be trained on it.
    """
    if cfg.tokenizer.kind == "bpe" and not cfg.tokenizer.path:
        raise ValueError("data.tokenizer.path='' must name the tokenizer of the model that is measured")
    documents = corpus.read(cfg.path, suffixes=cfg.suffixes, max_bytes=cfg.max_bytes, piece_chars=sys.maxsize)
    maker = cfg.tokenizer.make(())
    tokens, offsets = _stream(maker, (document.text for document in documents))
    split = Split(tokens, offsets, int(maker.token_bytes[tokens].sum(dtype=np.int64)))
    return Tokenized(maker, {"valid": split}, "", {"config": config.to_dict(cfg)})


def _write(cfg: Config, folder: pathlib.Path) -> None:
    documents = corpus.read(
        cfg.path, suffixes=cfg.suffixes, max_bytes=cfg.max_bytes, piece_chars=cfg.piece_chars
    )
    parts = corpus.split(documents, cfg.valid_fraction)
    maker = cfg.tokenizer.make(document.text for document in parts["train"])
    maker.save(folder)
    asked = config.to_dict(cfg)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + (folder / tokenizers.FILE).read_bytes())
    meta = {"format_version": FORMAT_VERSION, "config": asked, "separator": cfg.tokenizer.separator, "splits": {}}
    for name in SPLITS:
        tokens, offsets = _stream(maker, (document.text for document in parts[name]))
        _save(folder / f"{name}.tokens.npy", tokens)
        _save(folder / f"{name}.offsets.npy", offsets)
        digest.update(tokens.data)
        digest.update(offsets.data)
        meta["splits"][name] = {
            "documents": len(parts[name]),
            "tokens": len(tokens),
            "bytes": int(maker.token_bytes[tokens].sum(dtype=np.int64)),
        }
    meta["fingerprint"] = digest.hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")


def _stream(maker, texts: Iterable[str], at_once: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and offsets of the documents, each opened by the separator."""
    dtype = np.uint16 if maker.size <= 2**16 else np.uint32
    separator = np.array([maker.separator], dtype)
    pieces, texts = [], iter(texts)
    while some := list(itertools.islice(texts, at_once)):
        pieces += [np.concatenate([separator, ids.astype(dtype)]) for ids in maker.encode_batch(some)]
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return np.concatenate(pieces), offsets


def _save(path: pathlib.Path, array: np.ndarray) -> None:
    """As `np.save`, whose error on a full disk does not say so."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _open(folder: pathlib.Path, name: str, counts: dict) -> Split:
    tokens = np.load(folder / f"{name}.tokens.npy", mmap_mode="r")
    offsets = np.load(folder / f"{name}.offsets.npy")
    if len(tokens) != counts["tokens"] or len(offsets) != counts["documents"] + 1 or offsets[-1] != len(tokens):
        raise ValueError(f"{name} has {len(tokens)} tokens and {len(offsets)} offsets, meta.json says {counts}")
    return Split(tokens, offsets, counts["bytes"])


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
