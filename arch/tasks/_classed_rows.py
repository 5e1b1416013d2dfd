"""What the tasks have in common that draw rows of symbols, or read them from files of their own, with a class each."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from arch import config
from arch.data import dataset, drawn
from arch.tasks import classification

SPLITS = ("train", "valid")
START = "[CLS]"
"""The symbol 0, with which rows begin that have one for the class to be read from."""

BYTES = (START, *(f"{byte:02x}" for byte in range(256)))
"""The names of the symbols of `of_bytes`."""

Rows = tuple[Sequence[np.ndarray], Sequence[int]]
"""The symbols of each row, and its class."""


@config.frozen
class Task(classification.Config):
    """Base of such tasks: an encoder on rows of at most `seq_len` symbols, padded to that length.

    Attributes:
      draw_seed: of the rows, apart from the run's, which orders them.
    """

    draw_seed: config.NonNegativeInt = 0

    kind: ClassVar[str] = "text"
    draws: ClassVar[bool] = True

    @property
    def seq_len(self) -> int:
        """Symbols of the longest row."""
        raise NotImplementedError

    @property
    def symbols(self) -> Sequence[str]:
        """The names of the ids, START the first of them if rows begin with it."""
        raise NotImplementedError

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        raise NotImplementedError

    def drawn(self) -> dict[str, Rows]:
        """The rows of both splits."""
        raise NotImplementedError

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """As of any classes; and rows are as long as the task's, and begin with what the class is read from."""
        super().must_suit(model_cfg, seq_len=seq_len)
        if seq_len != self.seq_len:
            raise ValueError(f"seq_len={seq_len} must be {self.seq_len}, the length of the rows of task {self.label!r}")
        if model_cfg.head.looks and self.symbols[0] != START:
            rule = f"with task.name={self.label!r}, whose rows have no token for their class"
            raise ValueError(f"model.head must be a row_classification of pool='mean' {rule}: {model_cfg.head}")

    def own_data(self) -> dataset.Tokenized:
        """The rows of both splits."""
        return drawn.classified(drawn.Symbols(self.symbols), self.classes, **self.drawn())


def of_bytes(raw: bytes) -> np.ndarray:
    """The symbols of some bytes behind the start: uint16[1 + len(raw)]."""
    return np.concatenate([[0], 1 + np.frombuffer(raw, np.uint8).astype(np.uint16)]).astype(np.uint16)


def split(rows: Rows, train: int, order: np.random.Generator) -> dict[str, Rows]:
    """So many of the rows, chosen by the generator, to train, and the others."""
    found, classes = rows
    lots = order.permutation(len(found))
    parts = lots[:train], lots[train:]
    return {name: ([found[i] for i in part], [classes[i] for i in part]) for name, part in zip(SPLITS, parts)}
