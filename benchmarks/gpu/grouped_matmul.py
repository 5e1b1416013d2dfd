"""The experts' products of published mixtures, 4096 tokens a chip in bfloat16, beside torch, tokamax and others.

In `even` groups all experts have as many rows, in `4:1` groups every second one four times the rows of the others.
"""

from functools import partial

from jax import lax

from arch.kernels.grouped_matmul import choice
from arch.sharding.mesh import device_kind
from benchmarks.gpu.contest import Contest, Operand
from benchmarks.gpu.peers import grouped
from benchmarks.grouped_matmul import sizes

SECONDS = 240
PUBLISHED = {"Mixtral 8x7B": (8192, 4096, 14336, 8), "DeepSeekMoE 16B": (24576, 2048, 1408, 64)}
"""Rows, inputs and outputs of an expert, experts."""


def _by(implementation: str):
    def run(x, weight, group_sizes):
        how = dict(device_kind=device_kind(), implementation=implementation)
        return choice.grouped_matmul(x, weight, group_sizes, **how)

    return run


def _installed(implementation: str, package: str):
    """A peer of `arch.kernels.grouped_matmul.peers`, which must be there before anything is traced."""
    choice.peers.require(package)
    return _by(implementation)


def products(shape: str, groups: str) -> Contest:
    """Of one published shape."""
    m, d, f, e = PUBLISHED[shape]
    rows = sizes(groups, m, e)
    operands = {
        "x": Operand((m, d)),
        "weight": Operand((e, d, f)),
        "group_sizes": Operand((e,), "int32", lambda key, shape: rows, gradient=False),
    }
    sides = {
        "own": lambda: _by("mosaic"),
        "blocks": lambda: _by("blocks"),
        "lax.ragged_dot": lambda: lax.ragged_dot,
        "tokamax": lambda: _installed("tokamax", "tokamax"),
        "jla": lambda: _installed("jax_linear_attention", "jax-linear-attention"),
        "torch": grouped.torch_grouped_mm,
    }
    about = dict(shape=shape, m=m, d=d, f=f, e=e, groups=groups)
    without = {("tokamax", "forward+backward"): "XLA takes minutes to compile its gradients"}
    name, flops = f"{shape}, {groups}", 2.0 * m * d * f
    return Contest(name, operands, sides, "blocks", flops, about=about, without=without)


PIECES = {f"{shape}, {groups}": partial(products, shape, groups) for shape in PUBLISHED for groups in ("even", "4:1")}
