"""Memory of a gradient against depth: all activations kept, each layer's input kept, or that of each sqrt(n)-th layer.

Source:    Chen, Xu, Zhang, Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174
Commands:  experiments/gradient_checkpointing/README.md has them, and what they gave
Hardware:  any; memory is that which XLA plans for the device, nothing runs

Options, as in `config.py:small`: there is one size.
"""

import math

import jax
import jax.numpy as jnp

from arch import config, hyper
from arch.ffns import mlp
from arch.layers import block
from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.mixers import attention
from experiments import options

KEEPS = ("everything", "layers", "segments")


@config.frozen
class Config(config.Config):
    """What is measured: blocks of attention and a perceptron.

    Attributes:
      keep: for the backward pass, one of KEEPS.
      depths: layers, a square each.
      embed_dim, num_heads, hidden_dim: of each layer.
      batch_size, length: of what it reads.
    """

    keep: str
    depths: tuple[config.PositiveInt, ...] = (4, 16, 36, 64, 144, 256)
    embed_dim: config.PositiveInt = 64
    num_heads: config.PositiveInt = 2
    hidden_dim: config.PositiveInt = 256
    batch_size: config.PositiveInt = 8
    length: config.PositiveInt = 128

    def check(self):
        if self.keep not in KEEPS:
            raise ValueError(f"keep={self.keep!r} must be one of {', '.join(KEEPS)}")
        for depth in self.depths:
            if math.isqrt(depth) ** 2 != depth:
                raise ValueError(f"depths={self.depths} must hold squares")

    @property
    def block(self):
        """One layer."""
        mixer = attention.Config(num_heads=self.num_heads, head_dim=self.embed_dim // self.num_heads)
        return block.Config(sublayers=(mixer, mlp.Config(hidden_dim=self.hidden_dim)))


def get_config(arg=""):
    """A narrow model; memory goes with its depth."""
    options.parse(arg, size=["small"])
    return config.config_dict(Config, dict(keep=KEEPS[0]))


def measure(cfg):
    """The temporaries of a gradient by depth, in bytes, and those of one layer's input."""
    module = cfg.block.make()
    x = jax.ShapeDtypeStruct((cfg.batch_size, cfg.length, cfg.embed_dim), jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(cfg.length), (cfg.batch_size, cfg.length))
    layer = lambda x, params: (module.apply({"params": params}, x, Context(positions=positions)).x, None)
    one = jax.eval_shape(lambda x: unbox(module.init(jax.random.key(0), x, Context(positions=positions))["params"]), x)
    for depth in cfg.depths:
        stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((depth, *leaf.shape), leaf.dtype), one)
        loss = lambda params, x: jnp.sum(stack(layer, params, x, depth, cfg.keep) ** 2)
        memory = jax.jit(jax.grad(loss)).lower(stacked, x).compile().memory_analysis()
        yield dict(keep=cfg.keep, depth=depth, temporaries=memory.temp_size_in_bytes, input=4 * x.size)


def stack(layer, params, x, depth, keep):
    """x behind so many layers; `segments` keeps x before each segment, and before each layer of the one it is in."""
    if keep == "everything":
        return jax.lax.scan(layer, x, params)[0]
    layer = jax.checkpoint(layer)
    if keep == "layers":
        return jax.lax.scan(layer, x, params)[0]
    segments = jax.tree.map(lambda leaf: leaf.reshape(math.isqrt(depth), -1, *leaf.shape[1:]), params)
    return jax.lax.scan(jax.checkpoint(lambda x, some: jax.lax.scan(layer, x, some)), x, segments)[0]


def sweep():
    """For `--mode=sweep`: each way to keep."""
    return hyper.sweep("keep", KEEPS)
