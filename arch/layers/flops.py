"""How many floating-point operations a call takes, counted as the matrix products that it is made of.

    a product of [m k] and [k n] takes m n k multiply-adds, 2 m n k operations

Two numbers: what the result *requires*, and what our code *executes*. They differ where a mask makes half of a
product vain: causal attention requires t (t + 1) / 2 pairs of tokens, the dense code multiplies all t^2. Model FLOPs
utilisation is about the first (Chowdhery et al., PaLM, 2022, arXiv 2204.02311, app. B, which does not halve causal
attention; we do), XLA's own count is of the second, and a test holds it to that.

Counted: matrix products, convolutions, and the multiply-adds of a recurrence. Left out: norms, softmax, activations,
gates, biases, rotations, biases of the logits, lookups and sums over tokens. A row counts as one document without
padding, whatever is packed into it.
"""

import dataclasses

TRAINING = 3
"""A step of training over its forward pass: the backward pass has two products for each one, by either factor. (It has
one Fourier transform for each one, so that a little much is counted where there are such.)"""


class UnknownFlops(NotImplementedError):
    """A part of the model does not say its FLOPs; the message names it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The sizes of one row that a sublayer is called with.

    Attributes:
      length: tokens.
      embed_dim: channels of the residual stream.
      memory_length: tokens that cross-attention reads.
      memory_dim: their channels; 0 for embed_dim.
    """

    length: int
    embed_dim: int
    memory_length: int = 0
    memory_dim: int = 0


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of a forward pass over one row.

    Attributes:
      required: by the result.
      executed: by our code, masked products among them; without rematerialisation.
      anew: of these, what the backward pass executes once more by itself: attention keeps no weights of pairs.
    """

    required: int = 0
    executed: int = 0
    anew: int = 0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.required + other.required, self.executed + other.executed, self.anew + other.anew)

    def __mul__(self, times: int) -> "Flops":
        return Flops(self.required * times, self.executed * times, self.anew * times)


def multiply_adds(count: int, *, executed: int = 0, anew: int = 0) -> Flops:
    """So many multiply-adds, of two operations each.

    Args:
      count: what the result requires.
      executed: what our code does; 0 for the same.
      anew: what it does once more in the backward pass.
    """
    return Flops(2 * count, 2 * (executed or count), 2 * anew)


def unknown(config: object) -> UnknownFlops:
    """The error of a config that does not say its FLOPs."""
    return UnknownFlops(f"{type(config).__module__.rsplit('.', 1)[-1]} does not say its FLOPs")
