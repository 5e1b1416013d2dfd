"""Generation: passes over the prompts, but for their last tokens, fill the caches; then single steps in a loop.

Prompts of different length are padded on the right; each row's cache holds its own tokens only, so a row's result does
not depend on the rows beside it.
"""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arch import config, tree
from arch.decode.prefill import prefill
from arch.layers.contract import Context, Memory, positions_of
from arch.ops.sampling import sample
from arch.sharding.mesh import constrain
from arch.typing import Array, Bool, Int, Key


@config.frozen
class Config(config.Config):
    """How to sample.

    Attributes:
      max_new_tokens: tokens to generate.
      temperature: 0 takes the likeliest token.
      top_k: only the k likeliest tokens; 0 for all.
      top_p: only the likeliest tokens that make up this probability.
      prefill_chunk: tokens of the prompts that are read at a time, which bounds the memory that takes; 0 for all.
    """

    max_new_tokens: config.PositiveInt = 64
    temperature: config.NonNegativeFloat = 0.8
    top_k: config.SizeOrZero = 0
    top_p: config.Fraction = 1.0
    prefill_chunk: config.SizeOrZero = 0

    def check(self):
        if not self.top_p > 0:
            raise ValueError(f"top_p={self.top_p} must be above 0")


def generate(
    model: Any,
    params: tree.Tree,
    prompts: list[list[int]],
    cfg: Config,
    *,
    key: Key[Array, ""],
    stop: int | tuple[int, ...] = (),
    memory: Memory | None = None,
) -> list[list[int]]:
    """The tokens that continue each prompt.

    Args:
      model: a Linen language model with the contract's call, whose `cfg` makes caches.
      params: its parameters, in scanned or canonical form.
      prompts: ids, at least one a prompt.
      cfg: how many and how to choose.
      key: for sampling.
      stop: the id, or any of the ids, that ends a row (it is not returned); -1 or () for none.
      memory: what cross-attention reads, a row a prompt.

    Raises:
      ValueError: see `must_fit`.
    """
    must_fit(model.cfg, prompts, cfg)
    width = -(-max(map(len, prompts)) // 16) * 16  # few different lengths, few compilations
    tokens = np.zeros((len(prompts), width), np.int32)
    valid = np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], valid[row, : len(prompt)] = prompt, True
    stop = tuple(i for i in ((stop,) if isinstance(stop, int) else stop) if i >= 0)
    ids = np.asarray(continued(model, cfg, stop, tree.unstack(params), tokens, valid, key, memory))
    return [list(itertools.takewhile(lambda token: token not in stop, row)) for row in ids.tolist()]


def must_fit(model_cfg: Any, prompts: list[list[int]], cfg: Config) -> None:
    """Raises ValueError for no prompts, an empty one, an unknown id, or more tokens than the model has positions."""
    if not prompts:
        raise ValueError("prompts=[] must hold at least one prompt")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompts[{i}]=[] must hold at least one token")
        if not 0 <= min(prompt) <= max(prompt) < model_cfg.vocab_size:
            raise ValueError(f"prompts[{i}] holds ids outside 0 ... vocab_size - 1 = {model_cfg.vocab_size - 1}")
    longest, limit = max(map(len, prompts)), model_cfg.max_length
    if 0 < limit < longest:
        raise ValueError(f"the longest prompt has {longest} tokens: it must have at most {limit}, the positions known")
    if 0 < limit < longest + cfg.max_new_tokens - 1:  # the last new token is not read
        rule = f"at most {limit - longest + 1}: {limit} positions are known, the longest prompt has {longest} tokens"
        raise ValueError(f"max_new_tokens={cfg.max_new_tokens} must be {rule}")


@partial(jax.jit, static_argnums=(0, 1, 2))
def continued(
    model: Any,
    cfg: Config,
    stop: tuple[int, ...],
    params: tree.Tree,
    tokens: Int[Array, "b t"],
    valid: Bool[Array, "b t"],
    key: Key[Array, ""],
    memory: Memory | None = None,
) -> Int[Array, "b new"]:
    """[b max_new_tokens] ids, stops from the first stop on. Arguments as in `generate`; params in canonical form."""
    choose = partial(sample, temperature=cfg.temperature, top_k=cfg.top_k, top_p=cfg.top_p)
    last = jnp.sum(valid, axis=1, dtype=jnp.int32) - 1  # the first step takes it: prefill then computes no logits
    positions = jnp.minimum(positions_of(tokens), last[:, None])
    size = tokens.shape[1] + cfg.max_new_tokens
    cache = model.cfg.init_cache(tokens.shape[0], min(size, model.cfg.max_length or size))
    context = Context(positions=positions, valid=positions < last[:, None], memory=memory)
    cache = prefill(model, params, tokens, context, cache, chunk=cfg.prefill_chunk)
    first = jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0]

    def step(carry, number):
        token, cache, done = carry
        context = Context(positions=(last + number)[:, None], memory=memory)
        out = model.apply({"params": params}, token[:, None], context, cache)
        new = choose(out.x[:, 0], jax.random.fold_in(key, number))
        if stop:
            new = jnp.where(done, stop[0], new)
            done = done | jnp.isin(new, jnp.array(stop))
        return (new, out.cache, done), new

    done = jnp.zeros(last.shape, bool)
    _, ids = jax.lax.scan(step, (first, cache, done), jnp.arange(cfg.max_new_tokens))
    return constrain(ids.T, None, None)  # whole on every process
