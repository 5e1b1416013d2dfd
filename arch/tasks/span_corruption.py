"""Span corruption: spans of a text are cut out of an encoder's input, and a decoder writes them.

    loss = -log p(target_t | input, target_1 ... target_(t-1)), the mean over t

Raffel et al., T5, 2019, arXiv 1910.10683, sec. 3.1.4 and 3.3.4. Spans: `arch.data.spans`. A text is a window of the
corpus, documents one after another; of `seq_len` tokens of input, at the defaults, 1.1 as many are text.
"""

import dataclasses
from typing import Any

import numpy as np

from arch import config
from arch.data import dataset, spans, task
from arch.layers import token_loss
from arch.layers.contract import Aux, Context


@config.frozen
class Config(task.Task):
    """Span corruption: an encoder-decoder on windows of text. `seq_len` is that of the input.

    Attributes:
      density: share of the tokens that are cut out.
      mean_span: mean length of a span.
      sentinel: the tokens that stand for the spans, `{}` being their number from 0 on.
      num_sentinels: how many of them the tokenizer has.
      start: the token that the decoder begins with (T5: '<pad>'); '' for the tokenizer's separator.
      end: the token that ends input and target; '' for the separator, which in T5 is '</s>'.
    """

    density: spans.Density = 0.15
    mean_span: spans.MeanSpan = 3.0
    sentinel: str = "<extra_id_{}>"
    num_sentinels: config.PositiveInt = 100
    start: str = ""
    end: str = ""

    def check(self):
        self._spans(range(self.num_sentinels), 0)
        if "{}" not in self.sentinel:
            raise ValueError(f"sentinel={self.sentinel!r} must have a {{}} in the place of its number")

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError unless the model is an encoder-decoder that knows as many positions.

        Its encoder must see both ways, its decoder look back alone.
        """
        task.must_be(model_cfg, "encoder_decoder", task="span_corruption")
        task.must_look(model_cfg.encoder, ahead=True, field="model.encoder", task="span_corruption")
        task.must_look(model_cfg.decoder, ahead=False, field="model.decoder", task="span_corruption")
        task.must_reach(model_cfg, max(seq_len, self._lengths(seq_len)[1]))

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """Windows of text, cut anew at each index, of a split but train without regard to the seed. Each is a dict of

        source: int32[seq_len], the input. source_positions: int32. source_valid: bool, False for padding.
        tokens: int32[target length], the target one place later. positions, valid: as above.
        targets: int32. weights: float32, 0 for padding.

        Raises:
          ValueError: the tokenizer lacks a special token, or the text is too short.
        """
        seed = seed if split == "train" else 0  # runs of other seeds are validated on the same
        words = tokenized.tokenizer
        sentinels = [words.special(self.sentinel.format(i)) for i in range(self.num_sentinels)]
        start, end = (words.special(text) if text else words.separator for text in (self.start, self.end))
        cfg, (text_length, target_length) = self._spans(sentinels, end), self._lengths(seq_len)

        def corrupted(sample: dict, index: int) -> dict:
            text = sample["tokens"][sample["segment_ids"] > 0]
            if len(text) < 2:  # the end of a validation split
                source = targets = text[:0]
            else:
                source, targets = spans.corrupt(text, seed=seed, index=index, cfg=cfg)
            source, source_valid = _padded(source, seq_len)
            targets, valid = _padded(targets, target_length)
            return {
                "source": source,
                "source_positions": np.arange(seq_len, dtype=np.int32),
                "source_valid": source_valid,
                "tokens": np.concatenate([[start], targets[:-1]]).astype(np.int32),
                "positions": np.arange(target_length, dtype=np.int32),
                "valid": valid,
                "targets": targets,
                "weights": valid.astype(np.float32),
            }

        return dataset.Mapped(dataset.packed(tokenized, split, seq_len=text_length, seed=seed), corrupted)

    def _spans(self, sentinels, end_id: int) -> spans.Config:
        shares = dict(density=self.density, mean_span=self.mean_span)
        return spans.Config(sentinels=tuple(sentinels), end_id=end_id, **shares)

    def fields(self, seq_len: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Of `samples`."""
        ints, source, target = "int32", (seq_len,), (self._lengths(seq_len)[1],)
        read = {"source": (source, ints), "source_positions": (source, ints), "source_valid": (source, "bool")}
        written = {"tokens": (target, ints), "positions": (target, ints), "valid": (target, "bool")}
        return read | written | {"targets": (target, ints), "weights": (target, "float32")}

    def lengths(self, seq_len: int) -> dict[str, int]:
        """The input has `seq_len` tokens, the target as many as it takes."""
        return {"length": self._lengths(seq_len)[1], "source_length": seq_len}

    def _lengths(self, seq_len: int) -> tuple[int, int]:
        """Tokens of a window of text, and of its target."""
        cfg = self._spans(range(self.num_sentinels), 0)
        text = spans.text_length(seq_len, cfg)
        return text, spans.lengths(text, cfg)[1]

    def terms(
        self, module: Any, batch: task.Batch, context: Context, loss: token_loss.Config
    ) -> tuple[dict[str, token_loss.Sums], Aux]:
        """One term, `tokens`."""
        fields = dict(positions=batch["source_positions"], valid=batch["source_valid"])
        out = module.hidden(batch["source"], batch["tokens"], dataclasses.replace(context, **fields), context)
        sums = loss.tokens(out.x, out.shared["unembed"], batch["targets"], batch["weights"])
        return {"tokens": sums}, out.aux


def _padded(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """int32[length], zeros at the end; and bool[length], True where there is a token."""
    out = np.zeros(length, np.int32)
    out[: len(tokens)] = tokens
    return out, np.arange(length) < len(tokens)
