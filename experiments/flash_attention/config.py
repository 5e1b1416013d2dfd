"""Attention a chunk at a time beside attention over all pairs at once: equal values, and memory linear in the length.

Source:    Dao et al., FlashAttention, 2022, arXiv 2205.14135, theorem 1 and sec. 3
Commands:  experiments/flash_attention/README.md has them, and what they gave
Hardware:  any; memory is that which XLA plans for the device, exactness is measured on it

Options, as in `config.py:small`: there is one size.
"""

import functools

import jax
import jax.numpy as jnp

from arch import config
from arch.ops.attention import attend, attention_mask
from arch.ops.chunked_attention import chunked_attend
from experiments import options

FORMS = ("chunked", "all pairs")


@config.frozen
class Config(config.Config):
    """What is measured, causal, forward and backward.

    Attributes:
      num_heads: heads.
      head_dim: channels of each.
      lengths: at which memory is read from the compiled program.
      exact_length: up to which values and gradients are compared.
    """

    num_heads: config.PositiveInt = 16
    head_dim: config.PositiveInt = 64
    lengths: tuple[config.PositiveInt, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    exact_length: config.PositiveInt = 1024


def get_config(arg=""):
    """The heads of GPT-2 medium, which are the paper's."""
    options.parse(arg, size=["small"])
    return config.config_dict(Config, {})


def measure(cfg):
    """Of each length the temporaries of both forms; of the lesser ones how far chunks are from all pairs."""
    for length in cfg.lengths:
        compiled = {form: program(form, length, cfg.num_heads, cfg.head_dim) for form in FORMS}
        row = dict(length=length, arrays=8 * array_bytes(cfg, length))
        row |= {form: run.memory_analysis().temp_size_in_bytes for form, run in compiled.items()}
        yield row | (differences(cfg, length, compiled) if length <= cfg.exact_length else {})


def array_bytes(cfg, length):
    """Of one of query, key, value and output, whose gradients are as large."""
    return 4 * length * cfg.num_heads * cfg.head_dim


def program(form, length, heads, dim):
    """Compiled: (query, key, value, gradient of the output) -> output and three gradients."""
    array = jax.ShapeDtypeStruct((1, length, heads, dim), jnp.float32)

    def run(query, key, value, d_out):
        out, pull = jax.vjp(functools.partial(attention, form), query, key, value)
        return out, *pull(d_out)

    return jax.jit(run).lower(*[array] * 4).compile()


def attention(form, query, key, value):
    """Causal attention."""
    if form == "chunked":
        return chunked_attend(query, key, value, causal=True)
    places = jnp.arange(query.shape[1])[None]
    return attend(query, key, value, mask=attention_mask(places, places, causal=True))


def differences(cfg, length, compiled):
    """The largest difference of an output and of a gradient from those of all pairs, over their root mean square."""
    shape = (1, length, cfg.num_heads, cfg.head_dim)
    arrays = [jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4)]
    (out, *grads), (exact, *exact_grads) = (compiled[form](*arrays) for form in FORMS)
    off = lambda some, other: float(jnp.max(jnp.abs(some - other)) / jnp.sqrt(jnp.mean(other**2)))
    return dict(output_off=off(out, exact), gradient_off=max(map(off, grads, exact_grads)))


def sweep():
    """For `--mode=sweep`: all lengths in one process."""
    return [{}]
