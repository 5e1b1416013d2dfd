"""What the tasks that draw their rows have in common: questions in each row, each with one right answer."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from arch import config
from arch.data import dataset, drawn, task
from arch.data.token_files import Split
from arch.tasks import next_token
from arch.typing import Bool, Int

SPLITS = ("train", "valid")
NOOP, ASK = ".", "=>"

VocabSize = Annotated[int, config.Range(6, 2**31 - 1)]


@config.frozen
class Task(next_token.Config):
    """Base of such tasks: a decoder on rows of one length, of which an evaluation asks the answers alone.

    The rows of a split are drawn together, from (`draw_seed`, split) alone; an epoch of training is all of them, in an
    order of its own. The symbols are, by id, one that stands for nothing, the letters, and one that asks.

    Attributes:
      vocab_size: symbols, two of which are no letters.
      train_rows: rows of an epoch.
      valid_rows: rows of an evaluation.
      draw_seed: of the rows, apart from the run's, which orders them.
      loss_of: what training learns of a row, the 'answer' (or all answers) alone or each next symbol of the 'row'.
    """

    vocab_size: VocabSize
    train_rows: config.PositiveInt = 5000
    valid_rows: config.PositiveInt = 500
    draw_seed: config.NonNegativeInt = 0
    loss_of: Literal["answer", "row"] = "answer"

    predicts_text: ClassVar[bool] = False
    draws: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """The name of the task."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def letters(self) -> int:
        """How many of the symbols are letters: the ids from 1 on."""
        return self.vocab_size - 2

    @property
    def seq_len(self) -> int:
        """Symbols of a row that are read: all but the last, which is an answer."""
        raise NotImplementedError

    def symbols(self) -> drawn.Symbols:
        """What the ids are called."""
        return drawn.Symbols([NOOP, *map(str, range(self.letters)), ASK])

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "n t"]:
        """So many rows, ids [count seq_len + 1] of symbols."""
        raise NotImplementedError

    def answers(self, rows: Int[np.ndarray, "n t"]) -> Bool[np.ndarray, "n t"]:
        """Which of the rows' symbols are answers: the last of each, where a task does not say otherwise."""
        return np.broadcast_to(np.arange(rows.shape[1]) == rows.shape[1] - 1, rows.shape)

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError unless the model is a decoder that looks back alone, on rows of the task's length."""
        task.must_be(model_cfg, "decoder", task=self.label)
        task.must_look(model_cfg.layers, ahead=False, field="model.layers", task=self.label)
        task.must_reach(model_cfg, seq_len)
        if seq_len != self.seq_len:
            raise ValueError(f"seq_len={seq_len} must be {self.seq_len}, the length of the rows of task {self.label!r}")

    def fields(self, seq_len: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Those of text, but a row is one piece."""
        return {name: field for name, field in super().fields(seq_len).items() if name != "segment_ids"}

    def own_data(self) -> dataset.Tokenized:
        """The rows of both splits."""
        made = {}
        for i, (split, count) in enumerate(zip(SPLITS, (self.train_rows, self.valid_rows), strict=True)):
            tokens = self.draw(np.random.default_rng((self.draw_seed, i)), count)
            whole = split == "train" and self.loss_of == "row"
            made[split] = tokens, np.ones(tokens.shape) if whole else self.answers(tokens).astype(float)
        return drawn.tokenized(self.symbols(), **made)

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """The split's rows."""

        def of_source(part: Split, *, seed: int, shuffled: bool) -> drawn.Rows:
            return drawn.Rows(part, seed=seed, shuffled=shuffled)

        return dataset.samples(tokenized, split, of_source, seed=seed)
