"""How a corpus becomes a folder of tokens (`tokenized`): read, split, given labels and a tokenizer, and written.

The corpus is read several times, a document at a time: to split it, for its labels if it has some, for a tokenizer if
one is trained on it, and to write its tokens.
"""

import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from arch import config
from arch.data import corpus, document_tokens, labelled, token_files
from arch.data import tokenizer as tokenizers

FORMAT_VERSION = 3
SPLITS = ("train", "valid")


def write(cfg: Any, folder: pathlib.Path) -> None:
    """Writes all of a folder of tokenised text.

    Args:
      cfg: a `tokenized.Config`.
      folder: empty.

    Raises:
      ValueError: the text cannot be read or split, or its labels are none.
    """
    sources = [_local(source, cfg.kind, folder / f"hub-{i}.jsonl") for i, source in enumerate(cfg.sources())]
    splitters = [corpus.Splitter(corpus.read(source, cfg.kind), cfg.valid_fraction) for source in sources]
    train = _train(cfg, sources, splitters) if cfg.kind in ("classes", "tags") else []
    labels = labelled.names(itertools.chain(*train))
    maker = cfg.tokenizer.make(_sample(cfg, sources, splitters))
    maker.save(folder)
    with contextlib.ExitStack() as stack:
        made = {name: token_files.Writer(folder, name, maker, cfg.columns()) for name in SPLITS}
        writers = {name: stack.enter_context(writer) for name, writer in made.items()}
        for source, splitter in zip(sources, splitters, strict=True):
            for document, columns in encoded(cfg.kind, maker, corpus.read(source, cfg.kind), labels):
                writers[splitter(document.name)].append(len(document.text.encode()), **columns)
            for writer in writers.values():
                writer.end_source()
        counts = {name: writer.close() for name, writer in writers.items()}
    asked = config.to_dict(cfg)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + (folder / tokenizers.FILE).read_bytes())
    meta = {"format_version": FORMAT_VERSION, "config": asked, "separator": cfg.tokenizer.separator}
    meta |= {"labels": list(labels), "splits": counts}
    for name in SPLITS:
        split = token_files.read(folder, name, meta["splits"][name])
        for array in (split.tokens, split.offsets, *split.columns.values()):
            digest.update(array.data)
    digest.update(json.dumps(meta["labels"]).encode() if labels else b"")
    meta["fingerprint"] = digest.hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    for file in folder.glob("hub-*.jsonl"):
        file.unlink()


def _local(source: corpus.Config, kind: labelled.Kind, file: pathlib.Path) -> corpus.Config:
    """The source, copied into a file if it is streamed from the hub: it is read more than once."""
    if corpus.form(source) != "hub":
        return source
    with open(file, "w", encoding="utf-8") as out:
        for document in corpus.read(source, kind):
            record = {"field": document.text} if kind == "text" else labelled.record(kind, document)
            out.write(json.dumps(record) + "\n")
    leaves = {leaf: leaf for leaf in labelled.fields(kind, source)}
    return source.replace(path=str(file), format="jsonl", **leaves)


def _train(cfg: Any, sources, splitters) -> list[Iterator]:
    """The documents of the train split, of each source."""

    def of(source, splitter):
        return (document for document in corpus.read(source, cfg.kind) if splitter(document.name) == "train")

    return [of(source, splitter) for source, splitter in zip(sources, splitters, strict=True)]


def _sample(cfg: Any, sources, splitters) -> Iterator[str]:
    """Texts of the train split, at most `tokenizer_max_bytes`: all, or documents chosen by the hash of their names."""
    for documents, splitter, weight in zip(_train(cfg, sources, splitters), splitters, cfg.weights(), strict=True):
        left = budget = int(cfg.tokenizer_max_bytes * weight / sum(cfg.weights()))
        for document in documents:
            # The first is taken whatever its hash, so that there is one.
            if left == budget or corpus.fraction(document.name, "tokenizer") * splitter.num_bytes < budget:
                raw = document.text.encode()
                yield document.text if len(raw) <= left else raw[:left].decode("utf-8", "ignore")
                left -= len(raw)
                if left <= 0:
                    break


def encoded(kind: labelled.Kind, maker, documents: Iterable, labels: Mapping[str, int]) -> Iterator[tuple]:
    """Each document with its tokens and what goes with each; a few documents are in memory together."""
    some, chars = [], 0

    def tokens():
        return zip(some, document_tokens.encode(kind, maker, some, labels), strict=True)

    for document in documents:
        some.append(document)
        chars += len(document.text)
        if len(some) == 256 or chars > 2**20:
            yield from tokens()
            some, chars = [], 0
    yield from tokens()
