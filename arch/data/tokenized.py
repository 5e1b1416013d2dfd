"""A corpus tokenised once into a folder: flat token files that are memory-mapped, and tables of document offsets.

    meta.json  tokenizer.json  train.tokens.npy  train.offsets.npy  valid.tokens.npy  valid.offsets.npy

A published tokenizer brings tokenizer_config.json and generation_config.json. A split's stream is each document as
[separator] + tokens, one after another; document j is `tokens[offsets[j]:offsets[j + 1]]`. The separator opens its
document, and is the target of the last token of the one before. The folder appears under its name only when it is
whole, and from then on the text is no longer needed.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import numpy as np

from arch import config
from arch.data import corpus, token_files
from arch.data import tokenizer as tokenizers

FORMAT_VERSION = 2
SPLITS = ("train", "valid")


@config.frozen
class Part(corpus.Config):
    """A source of a mixture."""

    weight: config.PositiveFloat = 1.0
    """Share of the training samples that come from it, relative to the other weights."""


@config.frozen
class Config(corpus.Config):
    """Which text, or mixture of texts, and how it is cut into documents, splits and tokens."""

    valid_fraction: Annotated[float, config.Range(0, 0.5, open=True)] = 0.05
    """Fraction of each source's documents, by the hash of their names, kept for validation."""
    tokenizer: tokenizers.Config = tokenizers.Config()
    tokenizer_max_bytes: config.PositiveInt = 100_000_000
    """Bytes of the train split that a tokenizer is trained on, at most; a mixture's sources share them by weight."""
    mixture: tuple[Part, ...] = ()
    """Several sources instead of the one that `path` names; () for that one."""

    def check(self):
        for field in dataclasses.fields(corpus.Config) if self.mixture else ():
            if (value := getattr(self, field.name)) != field.default:
                raise ValueError(f"{field.name}={value!r} must be left out with a mixture: its sources have their own")

    def sources(self) -> tuple[corpus.Config, ...]:
        """The corpora that are read."""
        names = [field.name for field in dataclasses.fields(corpus.Config)]
        return self.mixture or (corpus.Config(**{name: getattr(self, name) for name in names}),)

    def weights(self) -> tuple[float, ...]:
        """Of the sources."""
        return tuple(part.weight for part in self.mixture) or (1.0,)


class Tokenized(NamedTuple):
    """An opened folder.

    tokenizer: what made the tokens.
    splits: 'train' and 'valid' to their `token_files.Split`.
    fingerprint: SHA-256 of the config, the tokenizer and all tokens, hexadecimal; put it into checkpoints.
    meta: what meta.json holds: the config asked for, and documents, tokens and bytes of each split.
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
      ValueError: the text cannot be read, or the tokenizer would have to be trained on it.
    """
    if cfg.tokenizer.kind == "bpe" and not cfg.tokenizer.path:
        raise ValueError("data.tokenizer.path='' must name the tokenizer of the model that is measured")
    maker = cfg.tokenizer.make(())
    whole = (corpus.read(source.replace(piece_chars=sys.maxsize)) for source in cfg.sources())
    pieces = [tokens for _, tokens in _encoded(maker, itertools.chain.from_iterable(whole))]
    tokens, offsets = np.concatenate(pieces), np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    split = token_files.Split(tokens, offsets, int(maker.token_bytes[tokens].sum(dtype=np.int64)), (len(pieces),))
    return Tokenized(maker, {"valid": split}, "", {"config": config.to_dict(cfg)})


def _write(cfg: Config, folder: pathlib.Path) -> None:
    sources = [_local(source, folder / f"hub-{i}.jsonl") for i, source in enumerate(cfg.sources())]
    splitters = [corpus.Splitter(corpus.read(source), cfg.valid_fraction) for source in sources]
    maker = cfg.tokenizer.make(_sample(cfg, sources, splitters))
    maker.save(folder)
    writers = {name: token_files.Writer(folder, name, maker) for name in SPLITS}
    for source, splitter in zip(sources, splitters, strict=True):
        for document, tokens in _encoded(maker, corpus.read(source)):
            writers[splitter(document.name)].append(tokens)
        for writer in writers.values():
            writer.end_source()
    asked = config.to_dict(cfg)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + (folder / tokenizers.FILE).read_bytes())
    meta = {"format_version": FORMAT_VERSION, "config": asked, "separator": cfg.tokenizer.separator}
    meta["splits"] = {name: writer.close() for name, writer in writers.items()}
    for name in SPLITS:
        tokens, offsets, *_ = token_files.read(folder, name, meta["splits"][name])
        digest.update(tokens.data)
        digest.update(offsets.data)
    meta["fingerprint"] = digest.hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    for file in folder.glob("hub-*.jsonl"):
        file.unlink()


def _local(source: corpus.Config, file: pathlib.Path) -> corpus.Config:
    """The source, copied into a file if it is streamed from the hub: it is read more than once."""
    if corpus.form(source) != "hub":
        return source
    with open(file, "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": document.text}) + "\n" for document in corpus.read(source))
    return source.replace(path=str(file), format="jsonl", field="text")


def _sample(cfg: Config, sources, splitters) -> Iterator[str]:
    """Texts of the train split, at most `tokenizer_max_bytes`: all, or documents chosen by the hash of their names."""
    for source, splitter, weight in zip(sources, splitters, cfg.weights(), strict=True):
        left = budget = int(cfg.tokenizer_max_bytes * weight / sum(cfg.weights()))
        for document in corpus.read(source):
            if splitter(document.name) != "train":
                continue
            # The first is taken whatever its hash, so that there is one.
            if left == budget or corpus.fraction(document.name, "tokenizer") * splitter.num_bytes < budget:
                raw = document.text.encode()
                yield document.text if len(raw) <= left else raw[:left].decode("utf-8", "ignore")
                left -= len(raw)
                if left <= 0:
                    break


def _encoded(maker, documents: Iterable[corpus.Document]) -> Iterator[tuple[corpus.Document, np.ndarray]]:
    """Each document with its tokens, opened by the separator; a few documents are in memory together."""
    dtype = token_files.dtype(maker)
    some, chars = [], 0

    def encoded():
        for document, ids in zip(some, maker.encode_batch([document.text for document in some]), strict=True):
            yield document, np.concatenate([[maker.separator], ids]).astype(dtype)

    for document in documents:
        some.append(document)
        chars += len(document.text)
        if len(some) == 256 or chars > 2**20:
            yield from encoded()
            some, chars = [], 0
    yield from encoded()


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
