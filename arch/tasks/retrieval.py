"""Long Range Arena's Retrieval from a copy of its files: whether of two papers one cites the other.

    label TAB id1 TAB id2 TAB text1 TAB text2      a line a pair, without a head, in new_aan_pairs.{train,test}.tsv

    [CLS] byte byte ... | [CLS] byte byte ...  ->  unlinked, linked

Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2.2.3, on pairs of the ACL Anthology Network (Radev et al.,
2013); the files are those of its `lra_release/tsv_data`, a line of which is as its released code reads it
(google-research/long-range-arena, matching/input_pipeline.py): labels are 0.0 and 1.0, and quotes mean nothing. An
evaluation is of the test rows, by which nothing must be chosen. The texts are encoded apart, by a dual encoder.
"""

import pathlib
from collections.abc import Iterator
from typing import Annotated, ClassVar

from arch import config
from arch.data import dataset, rows
from arch.data.token_files import Split
from arch.tasks import _classed_rows

FIELDS = ("label", "id1", "id2", "text1", "text2")
LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}
FILES = {"train": "new_aan_pairs.train.tsv", "valid": "new_aan_pairs.test.tsv"}


@config.frozen
class Config(_classed_rows.Task):
    """Pairs of texts from files, with the length of Long Range Arena: a dual encoder with `pair_classification`.

    Attributes:
      path: the folder.
      length: symbols of each text, bytes and the start; of longer ones the end is left out.
    """

    path: str = "tsv_data"
    length: Annotated[int, config.Range(4)] = 4000

    model: ClassVar[str] = "dual_encoder"
    heads: ClassVar[tuple[str, ...]] = ("pair_classification",)
    texts: ClassVar[int] = 2

    symbols = _classed_rows.BYTES
    classes = ("unlinked", "linked")

    @property
    def seq_len(self) -> int:
        """Symbols of both texts."""
        return self.texts * self.length

    def drawn(self) -> dict[str, _classed_rows.Rows]:
        """The texts of the files, two a pair. Raises ValueError where a file is missing, empty or damaged."""
        made = {}
        for split, name in FILES.items():
            texts, classes = [], []
            for kind, *both in pairs(pathlib.Path(self.path) / name):
                texts += [_classed_rows.of_bytes(text[: self.length - 1]) for text in both]
                classes += [kind, kind]
            made[split] = texts, classes
        return made

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """The split's pairs, one a row."""

        def of_source(part: Split, *, seed: int, shuffled: bool) -> rows.Pairs:
            return rows.Pairs(part, seq_len=seq_len, seed=seed, shuffled=shuffled)

        return dataset.samples(tokenized, split, of_source, seed=seed)


def pairs(file: pathlib.Path) -> Iterator[tuple[int, bytes, bytes]]:
    """The class and both texts of each line. Raises ValueError where the file, or a field of it, is not so."""
    if not file.is_file():
        raise ValueError(f"task.path={str(file.parent)!r} must hold the file {file.name}")
    number = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            where, fields = f"{str(file)!r}: line {number}", line.rstrip(b"\r\n").split(b"\t")
            if len(fields) != len(FIELDS):
                raise ValueError(f"{where} must be {', '.join(FIELDS)}, tabs between, and has {len(fields)} fields")
            label, _, _, *texts = fields
            if label not in LABELS:
                found = label[:40].decode(errors="replace")
                raise ValueError(f"{where}: its label must be 0.0 or 1.0, and not {found!r}")
            for name, text in zip(FIELDS[3:], texts):
                if not text:
                    raise ValueError(f"{where}: its {name} must not be empty")
            yield LABELS[label], *texts
    if not number:
        raise ValueError(f"{str(file)!r} must hold pairs of texts: it is empty")
