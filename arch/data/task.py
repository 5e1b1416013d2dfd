"""A task: what a run learns of its text. Its samples, what of them is predicted, and with what loss.

    objective = sum over terms of (sum_i w_i loss_i / sum_i w_i)  +  the layers' own losses

A task has one term, or several that are each a mean of their own (BERT's masked tokens and next sentences). The
weights of a batch are known before the model is called, so that micro-batches and shards add up exactly: what divides
is the sum over the whole batch.
"""

import logging
from typing import Any, ClassVar

import jax.numpy as jnp

from arch import config
from arch.data import dataset
from arch.layers import stack, token_loss
from arch.layers.contract import Aux, Context
from arch.typing import Array

log = logging.getLogger("arch")

Batch = dict[str, Array]


class Task(config.Config):
    """Base of the configs of tasks. The fields of a batch that are called as those of a `Context` become its context.

    Attributes:
      predicts_text: whether `batch["targets"]`, under `batch["weights"]`, are ids of text, of which bits per byte can
        be told.
      kind: of the data that it learns from, as `data.kind` says it.
      main_term: the term whose accuracy is the run's, and of text the one of these targets.
      draws: whether it draws its rows itself (`own_data`), so that there is no `data`.
    """

    predicts_text: ClassVar[bool] = True
    kind: ClassVar[str] = "text"
    main_term: ClassVar[str] = "tokens"
    draws: ClassVar[bool] = False

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError, before anything is read or compiled, when this model cannot learn this."""
        raise NotImplementedError

    def must_fit(self, model_cfg: Any, tokenized: dataset.Tokenized) -> None:
        """Raises ValueError, before anything is compiled, when the model does not fit the opened data."""

    def lengths(self, seq_len: int) -> dict[str, int]:
        """Tokens of a row, by the arguments of the model's `flops`; `predicted`, if not all of them need logits."""
        return {"length": seq_len}

    def fields(self, seq_len: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """(shape, dtype) of each field of a row that goes to the devices; of a packed text without more columns."""
        whole = dict.fromkeys(("tokens", "targets", "segment_ids", "positions"), ((seq_len,), "int32"))
        return whole | {"weights": ((seq_len,), "float32")}

    def own_data(self) -> dataset.Tokenized:
        """The rows of a task that draws them, all splits of them."""
        raise NotImplementedError

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """The samples of a split by their global index; by default its text in windows of `seq_len` tokens.

        Raises:
          ValueError: the split is too short, or the tokenizer or the text lack what the task needs.
        """
        return dataset.packed(tokenized, split, seq_len=seq_len, seed=seed)

    def weights(self, batch: Batch) -> dict[str, Array]:
        """The total weight of each term in a batch; by default the sum of its `weights`."""
        return {self.main_term: jnp.sum(batch["weights"])}

    def terms(
        self, module: Any, batch: Batch, context: Context, loss: token_loss.Config
    ) -> tuple[dict[str, token_loss.Sums], Aux]:
        """The sums of each term over a batch, and the layers' losses and statistics.

        Args:
          module: the bound Linen module.
          batch: the samples' arrays, each with rows as its first axis.
          context: what the layers may read.
          loss: of a token.
        """
        raise NotImplementedError


def must_be(model_cfg: Any, *names: str, task: str) -> None:
    """Raises ValueError unless the model is one of these files of arch/models."""
    name = type(model_cfg).__module__.rsplit(".", 1)[-1]
    if name not in names:
        raise ValueError(f"model.name={name!r} must be {' or '.join(map(repr, names))} with task.name={task!r}")


def must_reach(model_cfg: Any, length: int) -> None:
    """Raises ValueError when rows of so many tokens have positions that the model does not know."""
    position = model_cfg.position
    if 0 < position.max_length < length:
        raise ValueError(f"seq_len={length} must be at most {position.max_length}, the places of model.{position=}")


def must_look(layers: stack.Config, *, ahead: bool, field: str, task: str) -> None:
    """Raises ValueError unless the attention of a stack looks where the task wants it to.

    A router of experts that is not causal is no error where `ahead` is False: decoders are trained with such (Zhou et
    al., "Mixture-of-Experts with Expert Choice Routing", 2022, arXiv:2202.09368), though later tokens have a say in
    what their loss is. Nor is a sublayer that does not keep the documents of a row apart, as a convolution over all of
    it. A warning in the log names either.

    Args:
      layers: the stack.
      ahead: whether a token is to see those behind it, of which it then must not be asked.
      field: of the config, that holds the stack.
      task: the task's name.
    """
    looking, mixing = set(), set()
    for i, layer in enumerate(layers.blocks):
        for label, sublayer in zip(layer.labels, layer.sublayers):
            if getattr(sublayer, "causal", not ahead) == ahead:
                found = f"{field}: {label}.causal={ahead} of layer {i}"
                raise ValueError(f"{found} must be {not ahead} with task.name={task!r}{_reason(ahead)}")
            lacks = sublayer.lacks() if ahead else sublayer.lacks_in_training()
            name = type(getattr(sublayer, "router", sublayer)).__module__.rsplit(".", 1)[-1]
            looking |= {name} if "causal" in lacks else set()
            mixing |= {name} if "segments" in lacks else set()
    if ahead and not looking:
        raise ValueError(f"{field} must hold attention of causal=False with task.name={task!r}{_reason(ahead)}")
    if looking and not ahead:
        names = ", ".join(sorted(looking))
        log.warning("%s: %s is not causal: later tokens have a say in what the loss of task %s is", field, names, task)
    if mixing - looking and not ahead:
        names = ", ".join(sorted(mixing - looking))
        log.warning("%s: with %s a document's loss of task %s depends on what else is in its row", field, names, task)


def _reason(ahead: bool) -> str:
    return ", for which tokens see both sides" if ahead else ", or tokens see what they are to predict"
