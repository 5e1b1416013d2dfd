"""The next token: each token of the text is predicted from those before it in its document.

    loss = -log p(x_t | x_1 ... x_(t-1)), the mean over t
"""

from typing import Any

from arch import config
from arch.data import task
from arch.layers import token_loss
from arch.layers.contract import Aux, Context


@config.frozen
class Config(task.Task):
    """Next token: a decoder on packed text."""

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError unless the model is a decoder that looks back alone and knows as many positions."""
        task.must_be(model_cfg, "decoder", task="next_token")
        task.must_look(model_cfg.layers, ahead=False, field="model.layers", task="next_token")
        task.must_reach(model_cfg, seq_len)

    def terms(
        self, module: Any, batch: task.Batch, context: Context, loss: token_loss.Config
    ) -> tuple[dict[str, token_loss.Sums], Aux]:
        """One term, `tokens`."""
        out = module.hidden(batch["tokens"], context)
        sums = loss.tokens(out.x, out.shared["unembed"], batch["targets"], batch["weights"])
        return {"tokens": sums}, out.aux
