"""Long Range Arena from a copy of its files: ListOps, reviews as bytes, images pixel by pixel, Pathfinder.

    rows         what lies in `path`, as its authors hand it out
    listops      basic_train.tsv, basic_test.tsv: a line of `Source` and `Target`, then a line a row
    text         aclImdb: train/neg/*.txt, train/pos/*.txt, test/neg/*.txt, test/pos/*.txt
    image        cifar-10-batches-bin: data_batch_1.bin ... data_batch_5.bin, test_batch.bin
    pathfinder   pathfinder32/curv_contour_length_14, or another: metadata/*.npy, which hold text, imgs/*/*.png

Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2.2. An evaluation is of the test rows, by which nothing must
be chosen. Pathfinder's files have no splits: as in the released code (google-research/long-range-arena) eight tenths
are there to train, and one is evaluated. Retrieval, whose rows are pairs of texts, is `arch/tasks/retrieval.py`.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from arch import config
from arch.tasks import _classed_rows, listops, pathfinder

SPLITS = {"train": "train", "valid": "test"}
"""Ours, and what they are called there."""
GREY = (0.2989, 0.5870, 0.1140)
"""Of red, green and blue."""
PIXELS = tuple(map(str, range(256)))

Pairs = Iterator[tuple[np.ndarray, int]]
"""The symbols of each row, and its class."""


def listops_rows(root: pathlib.Path, seed: int) -> dict[str, Pairs]:
    """Expressions."""
    return {split: _expressions(_file(root, f"basic_{name}.tsv")) for split, name in SPLITS.items()}


def _expressions(file: pathlib.Path) -> Pairs:
    ids = {name: i for i, name in enumerate(listops.SYMBOLS)}
    with open(file, encoding="utf-8") as lines:
        if (head := next(lines, "").rstrip()) != "Source\tTarget":
            raise ValueError(f"{str(file)!r} must begin with a line of Source and Target, a tab between: {head[:40]!r}")
        for number, line in enumerate(lines, start=2):
            source, _, target = line.rstrip().rpartition("\t")
            words = source.replace("(", "").replace(")", "").split()
            if not words or not ids.keys() >= {*words} or target not in listops.Config.classes:
                raise ValueError(f"{str(file)!r}: line {number} must be an expression and its value: {line[:40]!r}")
            yield np.array([0, *map(ids.get, words)], np.uint8), int(target)


def text_rows(root: pathlib.Path, seed: int) -> dict[str, Pairs]:
    """Reviews."""
    return {split: _reviews(root / name) for split, name in SPLITS.items()}


def _reviews(folder: pathlib.Path) -> Pairs:
    for kind, name in enumerate(READERS["text"].classes):
        for file in sorted((folder / name).glob("*.txt")):
            yield _classed_rows.of_bytes(file.read_bytes()), kind


def image_rows(root: pathlib.Path, seed: int) -> dict[str, Pairs]:
    """Things, in grey."""
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "valid": ["test_batch.bin"]}
    return {split: (pair for name in names for pair in _batch(_file(root, name))) for split, names in files.items()}


def _batch(file: pathlib.Path) -> Pairs:
    raw = np.fromfile(file, np.uint8)
    if len(raw) % 3073 or raw[::3073].max(initial=0) > 9:
        raise ValueError(f"{str(file)!r} must hold classes from 0 to 9, with 3072 bytes behind each")
    records = raw.reshape(-1, 3073)
    colours = records[:, 1:].reshape(-1, 3, 1024).astype(np.float32)
    yield from zip(np.round(np.tensordot(colours, GREY, axes=(1, 0))).astype(np.uint8), records[:, 0].tolist())


def pathfinder_rows(root: pathlib.Path, seed: int) -> dict[str, Pairs]:
    """Images with two dots; files without content are left out."""
    named = [line.split() for file in sorted(root.glob("metadata/*.npy")) for line in file.read_text().splitlines()]
    files = [(_file(root, f"{folder}/{name}"), int(kind)) for folder, name, _, kind, *_ in named]
    files = [(file, kind) for file, kind in files if file.stat().st_size]
    lots = np.random.default_rng(seed).permutation(len(files))
    parts = {"train": lots[: 8 * len(lots) // 10], "valid": lots[9 * len(lots) // 10 :]}
    return {split: (_picture(*files[i]) for i in part) for split, part in parts.items()}


def _picture(file: pathlib.Path, kind: int) -> tuple[np.ndarray, int]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L")).ravel(), kind
    except OSError as error:
        raise ValueError(f"{str(file)!r} must be an image ({error})") from None


def _file(root: pathlib.Path, name: str) -> pathlib.Path:
    """A file of the folder. Raises ValueError where there is none."""
    if not (root / name).is_file():
        raise ValueError(f"task.path={str(root)!r} must hold the file {name}")
    return root / name


class Reader(NamedTuple):
    """How one of the tasks is read.

    read: (folder, seed) -> the rows of both splits.
    symbols, classes: their names.
    """

    read: Callable[[pathlib.Path, int], dict[str, Pairs]]
    symbols: Sequence[str]
    classes: Sequence[str]


READERS = {
    "listops": Reader(listops_rows, listops.SYMBOLS, listops.Config.classes),
    "text": Reader(text_rows, _classed_rows.BYTES, ("neg", "pos")),
    "image": Reader(image_rows, PIXELS, tuple("plane car bird cat deer dog frog horse ship truck".split())),
    "pathfinder": Reader(pathfinder_rows, PIXELS, pathfinder.Config.classes),
}


@config.frozen
class Config(_classed_rows.Task):
    """Rows from files.

    Attributes:
      path: the folder.
      rows: what it holds.
      length: symbols of a row, the start of expressions and texts among them; of longer ones the end is left out.
    """

    path: str
    rows: Literal["listops", "text", "image", "pathfinder"]
    length: config.PositiveInt

    @property
    def seq_len(self) -> int:
        """Symbols of a row."""
        return self.length

    @property
    def symbols(self) -> Sequence[str]:
        """Those of ListOps, bytes, or levels of grey."""
        return READERS[self.rows].symbols

    @property
    def classes(self) -> Sequence[str]:
        """Values, opinions, things, or whether a curve joins the dots."""
        return READERS[self.rows].classes

    def drawn(self) -> dict[str, _classed_rows.Rows]:
        """The rows of the files. Raises ValueError where one is missing or damaged."""
        made = {}
        for split, pairs in READERS[self.rows].read(pathlib.Path(self.path), self.draw_seed).items():
            found = [(row[: self.length], kind) for row, kind in pairs]
            if not found:
                raise ValueError(f"task.path={self.path!r} must be a folder of {self.rows}: it has none to {split}")
            made[split] = [row for row, _ in found], [kind for _, kind in found]
        return made
