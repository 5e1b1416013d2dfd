"""Masked tokens: a share of the tokens is hidden, changed or kept, and the model says what they were.

Of the tokens that are neither special nor padding, `round(rate * count)` (at least one) are chosen; of these 80 %
become the mask token, 10 % a random token and 10 % stay. The loss counts the chosen ones alone.
Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018,
arXiv:1810.04805, section 3.1 (task 1) and appendix A.1. The choice is a function of (seed, index), so each epoch hides
other tokens, as in RoBERTa (Liu et al., 2019, arXiv:1907.11692, section 4.1). The released code of BERT draws random
tokens from the whole vocabulary; here they are never special ones.
"""

import functools

import numpy as np

from arch import config


@config.frozen
class Config(config.Config):
    """How tokens are masked."""

    mask_id: config.SizeOrZero
    """The mask token."""
    vocab_size: config.PositiveInt
    """Random tokens are below it."""
    special_ids: tuple[int, ...] = ()
    """Tokens that are neither masked nor drawn (the mask token is one of them, said or not)."""
    rate: config.Fraction = 0.15
    """Share of the tokens that are chosen."""
    mask_share: config.Fraction = 0.8
    """Share of the chosen that become the mask token."""
    random_share: config.Fraction = 0.1
    """Share of the chosen that become a random token; what is left stays."""

    def check(self):
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share={self.mask_share} and random_share={self.random_share} must be at most 1 together"
            )
        for i in (*self.special_ids, self.mask_id):
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"vocab_size={self.vocab_size} must be above the special token {i}")
        if len({*self.special_ids, self.mask_id}) == self.vocab_size:
            raise ValueError(f"vocab_size={self.vocab_size} must have tokens that are not special")

    @functools.cached_property
    def ordinary(self) -> np.ndarray:
        """The ids that are not special, ascending: int64[...]."""
        return np.setdiff1d(np.arange(self.vocab_size), (*self.special_ids, self.mask_id))

    def transform(self, sample: dict[str, np.ndarray], *, seed: int, index: int) -> dict[str, np.ndarray]:
        """A sample as a masked one.

        Args:
          sample: `tokens`, int32[seq_len]; `valid`, bool[seq_len], or `segment_ids`, 0 for padding; and more.
          seed: of the choice.
          index: the sample's global index.

        Returns:
          The sample with `tokens` masked, `targets` the tokens as they were, and `weights` float32 1 at the chosen.
        """
        valid = sample["valid"] if "valid" in sample else sample["segment_ids"] > 0
        tokens, chosen = mask(sample["tokens"], valid, seed=seed, index=index, cfg=self)
        return sample | {"tokens": tokens, "targets": sample["tokens"], "weights": chosen.astype(np.float32)}


def most(length: int, rate: float) -> int:
    """How many of so many tokens are chosen at most."""
    return min(max(1, round(rate * length)), length) if rate else 0


def mask(tokens: np.ndarray, valid: np.ndarray, *, seed: int, index: int, cfg: Config) -> tuple[np.ndarray, np.ndarray]:
    """Tokens with some of them masked, and which were chosen.

    Args:
      tokens: int32[length].
      valid: bool[length], False for padding.
      seed: of the choice, at least 0.
      index: the sample's global index, at least 0.
      cfg: how.

    Returns:
      int32[length] and bool[length].
    """
    length = len(tokens)
    bits = np.random.Philox(np.random.SeedSequence((seed, index, 7))).random_raw((3, length))
    candidates = np.flatnonzero(valid & np.isin(tokens, cfg.ordinary))
    count = most(len(candidates), cfg.rate)
    places = candidates[np.argsort(bits[0, candidates], kind="stable")[:count]]
    chosen = np.zeros(length, bool)
    chosen[places] = True
    fate = bits[1] / 2**64  # uniform in [0, 1]
    drawn = cfg.ordinary[bits[2] % np.uint64(len(cfg.ordinary))]
    changed = np.where(fate < cfg.mask_share + cfg.random_share, drawn, tokens)
    changed = np.where(fate < cfg.mask_share, cfg.mask_id, changed)
    return np.where(chosen, changed, tokens).astype(tokens.dtype), chosen
