"""Supervised fine-tuning on conversations: the next token, where it is part of an answer.

    loss = -log p(x_t | x_1 ... x_(t-1)), the mean over the t whose token the assistant wrote, its end included

Ouyang et al., "Training language models to follow instructions with human feedback", 2022, arXiv:2203.02155, sec. 3.1
(SFT). The data are of `data.kind='chat'`; how a conversation is written: `arch.data.conversations`.
"""

from typing import Any, ClassVar

from arch import config
from arch.data import dataset, rows, task
from arch.data.token_files import Split
from arch.tasks import _documents, next_token


@config.frozen
class Config(next_token.Config):
    """Answers: a decoder on whole conversations, side by side in rows that each fills as far as it can be filled."""

    kind: ClassVar[str] = "chat"

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError unless the model is a decoder that looks back alone and knows as many positions."""
        task.must_be(model_cfg, "decoder", task="chat")
        task.must_look(model_cfg.layers, ahead=False, field="model.layers", task="chat")
        task.must_reach(model_cfg, seq_len)

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """The split's conversations, in rows as `rows.Conversations` puts them."""

        def of_source(part: Split, *, seed: int, shuffled: bool) -> rows.Conversations:
            made = rows.Conversations(part, seq_len=seq_len, seed=seed, shuffled=shuffled)
            _documents.tell_truncated(part, made, seq_len)
            return made

        return dataset.samples(tokenized, split, of_source, seed=seed)
