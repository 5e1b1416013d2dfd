"""What the tasks with a label for each document, or each of its words, have in common: an encoder reads it whole."""

import functools
import logging
from typing import Any, ClassVar

from arch.data import dataset, rows, task
from arch.data.token_files import Split

log = logging.getLogger("arch")


class Task(task.Task):
    """Base of both: a document a row, `rows.Documents`.

    Attributes:
      model: that suits.
      heads: of the model, that suit.
      texts: in a row, each of which the model reads by itself.
    """

    predicts_text: ClassVar[bool] = False
    model: ClassVar[str] = "encoder"
    heads: ClassVar[tuple[str, ...]]
    texts: ClassVar[int] = 1

    @property
    def label(self) -> str:
        """The name of the task."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError unless the model is this one, with such a head, that sees as much as it reads, so far."""
        task.must_be(model_cfg, self.model, task=self.label)
        head = type(model_cfg.head).__module__.rsplit(".", 1)[-1]
        if head not in self.heads:
            known = " or ".join(map(repr, self.heads))
            raise ValueError(f"model.head.name={head!r} must be {known} with task.name={self.label!r}")
        if model_cfg.head.looks:
            task.must_look(model_cfg.layers, ahead=True, field="model.layers", task=self.label)
        task.must_reach(model_cfg, seq_len // self.texts)

    def must_fit(self, model_cfg: Any, tokenized: dataset.Tokenized) -> None:
        """Raises ValueError unless the head has the data's labels, and the model a vector for each type of token."""
        labels = tokenized.meta["labels"]
        if model_cfg.head.num_labels != len(labels):
            raise ValueError(
                f"model.head.num_labels={model_cfg.head.num_labels} must be {len(labels)}, the labels of the train "
                f"split: {', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}"
            )
        columns = [split.columns for split in tokenized.splits.values()]
        types = [column["token_types"] for column in columns if "token_types" in column]
        if types and model_cfg.token_types <= (most := max(int(column.max()) for column in types)):
            held = model_cfg.token_types
            raise ValueError(f"model.token_types={held} must be at least {most + 1} for pairs of texts")

    def fields(self, seq_len: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """A document a row has padding and no segments."""
        own = super().fields(seq_len) | {"valid": ((seq_len,), "bool")}
        return {name: field for name, field in own.items() if name != "segment_ids"}

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """The split's documents, a row each."""

        def of_source(part: Split, *, seed: int, shuffled: bool) -> rows.Documents:
            made = rows.Documents(part, seq_len=seq_len, seed=seed, shuffled=shuffled)
            tell_truncated(part, made, seq_len)
            return made

        return dataset.samples(tokenized, split, of_source, seed=seed)


def tell_truncated(part: Split, made: rows.Rows, seq_len: int) -> None:
    """Says in the log how many of a source's documents do not fit their rows, and how many thereby lose all labels."""
    if made.truncated:
        tell_once(
            f"{part.name}: {made.truncated} of {len(part.offsets) - 1} documents are longer than seq_len={seq_len} and "
            f"lose an end, {made.unlabelled} of them all that has a label"
        )


@functools.cache  # however often a run's samples are made
def tell_once(words: str) -> None:
    """Says something in the log."""
    log.info("%s", words)
