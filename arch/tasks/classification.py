"""The class of a text, or of a pair of texts, told from the encoder's first token, or from the mean of all.

    loss = -log p(class | text), the mean over the texts

Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018,
arXiv:1810.04805, sec. 4.1. The data are of `data.kind='classes'`.
"""

from typing import Any, ClassVar

from arch import config
from arch.data import task
from arch.layers import token_loss
from arch.layers.contract import Aux, Context
from arch.tasks import _documents


@config.frozen
class Config(_documents.Task):
    """Classes: an encoder with the head `classification` or `row_classification`, a document a row."""

    heads: ClassVar[tuple[str, ...]] = ("classification", "row_classification")
    kind: ClassVar[str] = "classes"
    main_term: ClassVar[str] = "documents"

    def terms(
        self, module: Any, batch: task.Batch, context: Context, loss: token_loss.Config
    ) -> tuple[dict[str, token_loss.Sums], Aux]:
        """One term, `documents`."""
        out = module(batch["tokens"], context)
        return {"documents": loss.classes(out.x, batch["targets"][:, 0], batch["weights"][:, 0])}, out.aux
