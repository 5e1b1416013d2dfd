"""What the tasks that draw their rows have in common: a question at the end of each row, with one right answer."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from arch import config
from arch.data import dataset, drawn, task
from arch.data.token_files import Split
from arch.tasks import next_token
from arch.typing import Int

SPLITS = ("train", "valid")
NOOP, ASK = ".", "=>"

VocabSize = Annotated[int, config.Range(6, 2**31 - 1)]


@config.frozen
class Task(next_token.Config):
    """Base of such tasks: a decoder on rows of one length, of which an evaluation asks the last symbol alone.

    The rows of a split are drawn together, from (`draw_seed`, split) alone; an epoch of training is all of them, in an
    order of its own. The symbols are, by id, one that stands for nothing, the letters, and one that asks.

    Attributes:
      vocab_size: symbols, two of which are no letters.
      train_rows: rows of an epoch.
      valid_rows: rows of an evaluation.
      draw_seed: of the rows, apart from the run's, which orders them.
      loss_of: what training learns of a row, the 'answer' alone or each next symbol of the 'row'.
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
        """Symbols of a row that are read: all but the answer."""
        raise NotImplementedError

    def symbols(self) -> drawn.Symbols:
        """What the ids are called."""
        return drawn.Symbols([NOOP, *map(str, range(self.letters)), ASK])

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "n t"]:
        """So many rows, ids [count seq_len + 1] of symbols, the last of each the answer."""
        raise NotImplementedError

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
            weights = np.zeros(tokens.shape)
            weights[:, 0 if split == "train" and self.loss_of == "row" else -1 :] = 1
            made[split] = tokens, weights
        return drawn.tokenized(self.symbols(), **made)

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """The split's rows."""

        def of_source(part: Split, *, seed: int, shuffled: bool) -> drawn.Rows:
            return drawn.Rows(part, seed=seed, shuffled=shuffled)

        return dataset.samples(tokenized, split, of_source, seed=seed)
