"""Masked tokens: some tokens of a text are hidden, and the model, which sees both sides, says what they were.

    loss = mean over masked t of -log p(x_t)  [+  mean over pairs of -log p(B follows A)]

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1; without the pairs Liu et al., RoBERTa, 2019, arXiv 1907.11692,
sec. 4.2 (but for its masks between packed documents). Masks: `arch.data.masking`; pairs: `arch.data.pairs`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from arch import config
from arch.data import dataset, masking, pairs, task, token_files
from arch.layers import token_loss
from arch.layers.contract import Aux, Context
from arch.sharding.mesh import constrain
from arch.typing import Array


@config.frozen
class Config(task.Task):
    """Masked tokens: an encoder on packed text, or on pairs of texts.

    Attributes:
      rate: share of the tokens that are chosen.
      mask_share: share of the chosen that become the mask token.
      random_share: share of the chosen that become a random token; what is left stays.
      mask: the mask token.
      next_sentence: pairs of texts instead of packed text, and the question whether the second follows the first.
      cls: the token that opens a pair.
      sep: the token that ends each text of a pair.
    """

    rate: config.Fraction = 0.15
    mask_share: config.Fraction = 0.8
    random_share: config.Fraction = 0.1
    mask: str = "[MASK]"
    next_sentence: bool = False
    cls: str = "[CLS]"
    sep: str = "[SEP]"

    def check(self):
        self._masking(0, 2, ())
        if not self.rate:
            raise ValueError(f"rate={self.rate} must be above 0: without masked tokens there is nothing to learn")

    def must_suit(self, model_cfg: Any, *, seq_len: int) -> None:
        """Raises ValueError unless the model is an encoder with the head for this, that sees both ways and so far."""
        task.must_be(model_cfg, "encoder", task="masked_tokens")
        task.must_look(model_cfg.layers, ahead=True, field="model.layers", task="masked_tokens")
        task.must_reach(model_cfg, seq_len)
        head = type(model_cfg.head).__module__.rsplit(".", 1)[-1]
        wanted = ("pretraining",) if self.next_sentence else ("masked_lm", "unembedding")
        if head not in wanted:
            names = " or ".join(map(repr, wanted))
            raise ValueError(f"model.head.name={head!r} must be {names} with task.next_sentence={self.next_sentence}")
        if self.next_sentence and model_cfg.token_types != 2:
            raise ValueError(f"model.token_types={model_cfg.token_types} must be 2 with task.next_sentence=True")

    def lengths(self, seq_len: int) -> dict[str, int]:
        """Only the masked tokens are predicted."""
        return {"length": seq_len, "predicted": masking.most(seq_len, self.rate)}

    def fields(self, seq_len: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Those of packed text; pairs have no segments, but types, what is real and an answer."""
        own = super().fields(seq_len)
        if not self.next_sentence:
            return own
        own |= {"token_types": ((seq_len,), "int32"), "valid": ((seq_len,), "bool"), "next_sentence": ((), "int32")}
        return {name: field for name, field in own.items() if name != "segment_ids"}

    def samples(self, tokenized: dataset.Tokenized, split: str, *, seq_len: int, seed: int = 0) -> dataset.Samples:
        """Packed text or pairs, masked anew at each index; of a split but train without regard to the seed.

        Raises:
          ValueError: the tokenizer lacks a special token, or the text is too short.
        """
        seed = seed if split == "train" else 0  # runs of other seeds are validated on the same
        words = tokenized.tokenizer
        masks = self._masking(words.special(self.mask), words.size, words.special_ids)
        if self.next_sentence:
            special = dict(cls_id=words.special(self.cls), sep_id=words.special(self.sep))

            def of_source(part: token_files.Split, *, seed: int, shuffled: bool) -> pairs.Pairs:
                how = dict(seq_len=seq_len, seed=seed, shuffled=shuffled)
                return pairs.Pairs(part.tokens, part.offsets, **how, **special)

            whole = dataset.samples(tokenized, split, of_source, seed=seed)
        else:
            whole = dataset.packed(tokenized, split, seq_len=seq_len, seed=seed)
        return dataset.Mapped(whole, lambda sample, index: masks.transform(sample, seed=seed, index=index))

    def _masking(self, mask_id: int, vocab_size: int, special_ids: tuple[int, ...]) -> masking.Config:
        shares = dict(rate=self.rate, mask_share=self.mask_share, random_share=self.random_share)
        return masking.Config(mask_id=mask_id, vocab_size=vocab_size, special_ids=special_ids, **shares)

    def weights(self, batch: task.Batch) -> dict[str, Array]:
        """Masked tokens, and pairs."""
        tokens = {"tokens": jnp.sum(batch["weights"])}
        return tokens | ({"next_sentence": jnp.sum(_real(batch))} if self.next_sentence else {})

    def terms(
        self, module: Any, batch: task.Batch, context: Context, loss: token_loss.Config
    ) -> tuple[dict[str, token_loss.Sums], Aux]:
        """`tokens`, and with pairs `next_sentence`, in which label smoothing and the z-loss have no part."""
        out = module.hidden(batch["tokens"], context)
        weights = batch["weights"]
        count = self.lengths(weights.shape[1])["predicted"]  # no logits for the others: they have no weight
        weights, places = jax.lax.top_k(weights, count)
        # Held to the batch's shards: else, on a (2, 2, 2) mesh, XLA scatters partial sums in the choice's gradient.
        chosen = constrain(jnp.take_along_axis(out.x, places[..., None], axis=1), "batch", None, None)
        targets = jnp.take_along_axis(batch["targets"], places, axis=1)
        terms = {"tokens": loss.tokens(chosen, out.shared["unembed"], targets, weights)}
        if self.next_sentence:
            plain = token_loss.Config()
            terms["next_sentence"] = plain.classes(out.shared["next_sentence"], batch["next_sentence"], _real(batch))
        return terms, out.aux


def _real(batch: task.Batch) -> Array:
    """[b] float32, 0 for rows of padding."""
    return batch["valid"][:, 0].astype(jnp.float32)
