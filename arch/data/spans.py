"""Span corruption: spans of the text are cut out of the input, a sentinel in the place of each, and are the target.

    text     Thank you for inviting me to your party last week
    input    Thank you <0> me to your party <1> week <end>
    target   <0> for inviting <1> last <end>

Of n tokens, m = round(n * density) are noise, in s = round(m / mean_span) spans; both the noise and what is left are
cut into s parts, uniformly over all ways to do so, and they alternate, text first. Input and target have
n - m + s + 1 and m + s + 1 tokens, whatever the draw.
Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2019,
arXiv:1910.10683, sections 3.1.4 and 3.3.4. As in its released code, and unlike its figure 2, no sentinel closes the
target.
"""

from typing import Annotated

import numpy as np

from arch import config

Density = Annotated[float, config.Range(0, 1, open=True)]
MeanSpan = Annotated[float, config.Range(1)]


@config.frozen
class Config(config.Config):
    """How spans are cut out."""

    sentinels: tuple[int, ...]
    """The tokens that stand for the first span, the second, ..."""
    end_id: config.SizeOrZero
    """The token that ends input and target."""
    density: Density = 0.15
    """Share of the tokens that are noise."""
    mean_span: MeanSpan = 3.0
    """Mean length of a span."""

    def check(self):
        if self.density == 1:
            raise ValueError(f"density={self.density} must be below 1")


def counts(length: int, cfg: Config) -> tuple[int, int]:
    """Noise tokens and spans of a text of `length` tokens.

    Raises:
      ValueError: fewer than 2 tokens, or more spans than sentinels.
    """
    if length < 2:
        raise ValueError(f"length={length} must be at least 2: a token that is kept and one that is cut out")
    noise = min(max(round(length * cfg.density), 1), length - 1)
    spans = min(max(round(noise / cfg.mean_span), 1), noise, length - noise)
    if spans > len(cfg.sentinels):
        raise ValueError(f"num_sentinels={len(cfg.sentinels)} must be at least {spans}, the spans of {length} tokens")
    return noise, spans


def lengths(length: int, cfg: Config) -> tuple[int, int]:
    """Tokens of the input and of the target that a text of `length` tokens becomes."""
    noise, spans = counts(length, cfg)
    return length - noise + spans + 1, noise + spans + 1


def text_length(inputs_length: int, cfg: Config) -> int:
    """Tokens of the longest text whose input is no longer than this; 568 for T5's 512.

    Raises:
      ValueError: too short for any text.
    """
    if inputs_length < lengths(2, cfg)[0]:
        raise ValueError(f"inputs_length={inputs_length} must be at least {lengths(2, cfg)[0]}")
    length = 2
    while lengths(length + 1, cfg)[0] <= inputs_length:
        length += 1
    return length


def corrupt(tokens: np.ndarray, *, seed: int, index: int, cfg: Config) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of a text, a function of (seed, index, tokens).

    Args:
      tokens: int32[length], without padding.
      seed: of the spans, at least 0.
      index: the sample's global index, at least 0.
      cfg: how.

    Returns:
      int32 of the two `lengths`.
    """
    noise, spans = counts(len(tokens), cfg)
    random = np.random.Philox(np.random.SeedSequence((seed, index, 8)))
    cut, kept = _parts(noise, spans, random), _parts(len(tokens) - noise, spans, random)
    ends = np.cumsum(np.stack([kept, cut], axis=1).reshape(-1))  # text, noise, text, noise, ...
    pieces = np.split(tokens, ends[:-1])
    sentinels = np.array(cfg.sentinels[:spans], tokens.dtype)[:, None]
    end = np.array([cfg.end_id], tokens.dtype)
    inputs = [part for pair in zip(pieces[::2], sentinels) for part in pair]
    targets = [part for pair in zip(sentinels, pieces[1::2]) for part in pair]
    return np.concatenate([*inputs, end]), np.concatenate([*targets, end])


def _parts(total: int, count: int, random: np.random.Philox) -> np.ndarray:
    """`count` lengths of at least 1 with this sum, uniform over all such: int64[count]."""
    inner = np.sort(np.argsort(random.random_raw(total - 1), kind="stable")[: count - 1]) + 1
    return np.diff(np.concatenate([[0], inner, [total]]))
