"""A tag for each word: named entities, parts of speech, told from the encoder's state at the word's first token.

    loss = -log p(tag | text), the mean over the words

Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018,
arXiv:1810.04805, sec. 5.3. The data are of `data.kind='tags'`. Accuracy is that of the words; entities of several words
are not put together, so there is no F1 of them.
"""

from typing import Any, ClassVar

from arch import config
from arch.data import task
from arch.layers import token_loss
from arch.layers.contract import Aux, Context
from arch.tasks import _documents


@config.frozen
class Config(_documents.Task):
    """Tags: an encoder with the head `tagging`, a document a row."""

    heads: ClassVar[tuple[str, ...]] = ("tagging",)
    kind: ClassVar[str] = "tags"
    main_term: ClassVar[str] = "words"

    def terms(
        self, module: Any, batch: task.Batch, context: Context, loss: token_loss.Config
    ) -> tuple[dict[str, token_loss.Sums], Aux]:
        """One term, `words`."""
        out = module(batch["tokens"], context)
        return {"words": loss.classes(out.x, batch["targets"], batch["weights"])}, out.aux
