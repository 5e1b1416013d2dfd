"""How near random features come to softmax attention: orthogonal or not, positive or trigonometric, by their number.

Source:    Choromanski et al., Rethinking Attention with Performers, 2020, arXiv 2009.14794, figure 4
Commands:  experiments/performer_approximation/README.md has them, and what they gave
Hardware:  2 CPU cores

Options, as in `config.py:small`: there is one size, the paper's.
"""

import functools

import jax
import jax.numpy as jnp

from arch import config, hyper
from arch.ops.attention import attend
from arch.ops.linear_attention import favor
from experiments import options

KERNELS = ("positive", "trigonometric")


@config.frozen
class Config(config.Config):
    """What is measured.

    Attributes:
      kernel: of KERNELS.
      orthogonal: whether the random vectors are orthogonal in blocks.
      length: tokens.
      head_dim: channels of queries, keys and values, which are standard normal.
      features: numbers of random vectors.
      samples: draws of the inputs and the vectors.
      seed: of the first draw.
    """

    kernel: favor.Kernel
    orthogonal: bool
    length: config.PositiveInt = 4096
    head_dim: config.PositiveInt = 16
    features: tuple[config.PositiveInt, ...] = (16, 32, 64, 128, 256, 512)
    samples: config.PositiveInt = 15
    seed: config.NonNegativeInt = 0


def get_config(arg=""):
    """The paper's sizes."""
    options.parse(arg, size=["small"])
    return config.config_dict(Config, dict(kernel=KERNELS[0], orthogonal=True))


def measure(cfg):
    """The mean squared error of the output, by the number of features and the sample."""
    for sample in range(cfg.samples):
        keys = jax.random.split(jax.random.key(cfg.seed + sample), 4)
        inputs = [jax.random.normal(key, (1, cfg.length, 1, cfg.head_dim)) for key in keys[:3]]
        exact = jax.jit(attend)(*inputs)
        for count in cfg.features:
            vectors = favor.draw(keys[3], count, cfg.head_dim, orthogonal=cfg.orthogonal)
            error = float(jnp.mean((approximate(cfg.kernel)(*inputs, vectors) - exact) ** 2))
            yield dict(kernel=cfg.kernel, orthogonal=cfg.orthogonal, features=count, sample=sample, error=error)


@functools.cache
def approximate(kernel):
    """Attention through random features, in both directions."""
    return jax.jit(lambda *arrays: favor.favor_attention(*arrays, kernel=kernel, causal=False)[0])


def sweep():
    """For `--mode=sweep`: both kernels, with vectors of both kinds."""
    return hyper.product([hyper.sweep("kernel", KERNELS), hyper.sweep("orthogonal", [True, False])])
