"""Sampling picks the next token from logits, cut to the likely ones: p'_i = softmax(filter(z / temperature))_i.

Sources: top-k is Fan, Lewis & Dauphin 2018, "Hierarchical Neural Story Generation" (arXiv 1805.04833, sec. 5.1);
top-p is Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751, sec. 3.1).
"""

import jax
import jax.numpy as jnp

from arch.typing import Array, Float, Int, Key


def filter_logits(
    logits: Float[Array, "b v"], *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Float[Array, "b v"]:
    """Divides by the temperature, then sets logits outside the top-k, then outside the top-p, to minus infinity.

    The softmax of the result is the distribution that `sample` draws from.

    Args:
        logits: unnormalised log-probabilities, any float dtype.
        temperature: positive; below 1 sharpens, above 1 flattens.
        top_k: how many of the largest logits to keep; 0, or more than there are, keeps all. Ties with the last one
            kept stay too.
        top_p: probability in (0, 1]; keeps the smallest set of most likely tokens whose mass, renormalised after
            top-k, reaches it. Of equal logits the lower ids count as the likelier. At least one token stays.

    Returns:
        float32 logits of the same shape.

    Raises:
        ValueError: a setting is out of its range.
    """
    _check(temperature, top_k, top_p)
    if temperature == 0:
        raise ValueError("temperature=0 is greedy: it has no filtered logits, take the argmax")
    logits = logits.astype(jnp.float32) / temperature
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        order = jnp.argsort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        mass_before = jnp.cumsum(probs, axis=-1) - probs
        kept = mass_before < top_p  # the likeliest has no mass before it, so it always stays
        kept = jnp.put_along_axis(jnp.zeros_like(kept), order, kept, axis=-1, inplace=False)
        logits = jnp.where(kept, logits, -jnp.inf)
    return logits


def sample(
    logits: Float[Array, "b v"], key: Key[Array, ""], *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Int[Array, "b"]:
    """Draws one token id a row from the filtered logits; temperature 0 takes the largest logit.

    Args:
        logits: unnormalised log-probabilities, any float dtype.
        key: one random key for the whole batch; unused at temperature 0.
        temperature: 0 or more, a static Python number; 0 is greedy and ignores the filters, which keep its choice.
        top_k: see `filter_logits`; 0 is off.
        top_p: see `filter_logits`; 1.0 is off.

    Returns:
        int32 token ids.

    Raises:
        ValueError: a setting is out of its range.
    """
    _check(temperature, top_k, top_p)
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    filtered = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return jax.random.categorical(key, filtered, axis=-1).astype(jnp.int32)


def _check(temperature: float, top_k: int, top_p: float) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or a positive finite number")
    if top_k < 0:
        raise ValueError(f"top_k={top_k} must be 0 (off) or a positive count")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be in (0, 1], where 1.0 is off")
