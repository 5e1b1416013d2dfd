"""The experts of a mixture, gated perceptrons, on the pairs that a router made: what runs on each shard."""

from typing import Literal

from arch.ops import dispatch
from arch.ops.activation import ACTIVATIONS
from arch.ops.routing import assignment
from arch.typing import Array, Bool, Float, Int

Dispatch = Literal["grouped", "gathered", "dense"]


def apply_experts(
    x: Float[Array, "b t d"],
    tokens: Int[Array, "b m"],
    experts: Int[Array, "b m"],
    weights: Float[Array, "b m"],
    kept: Bool[Array, "b m"],
    gate: Float[Array, "e d f"],
    up: Float[Array, "e d f"],
    down: Float[Array, "e f d"],
    factors: Float[Array, "b m f"] | None = None,
    *,
    way: Dispatch,
    places: int,
    capacity: int,
    activation: str,
    platform: str,
) -> Float[Array, "b t d"]:
    """The weighted sum of each token's experts; a pair that is not kept adds nothing.

    Args:
      x: [b t d] tokens.
      tokens, experts, weights, kept: [b m] the pairs of each row, as in `assignment.Pairs`.
      gate: [e d f], up: [e d f], down: [e f d] the experts' weights.
      factors: [b m f] of the hidden layers' entries, for dropout; None for ones.
      way: of dispatch.
      places: see `dispatch.grouped`.
      capacity: see `dispatch.gathered`.
      activation: a key of ACTIVATIONS.
      platform: of the devices that run this ('cpu', 'gpu', 'tpu').
    """
    pair, e = assignment.Pairs(tokens, experts, weights, kept), gate.shape[0]

    def perceptron(rows, product, lay):
        hidden = ACTIVATIONS[activation](product(rows, gate)) * product(rows, up)
        return product(hidden if factors is None else hidden * lay(factors), down)

    if way == "grouped":
        return dispatch.grouped(x, pair, perceptron, num_experts=e, places=places, platform=platform)
    if way == "gathered":
        return dispatch.gathered(x, pair, perceptron, num_experts=e, places=places, capacity=capacity)
    return dispatch.dense(x, assignment.dense(pair, tokens=x.shape[1], num_experts=e, capacity=capacity), perceptron)
