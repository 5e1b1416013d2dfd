"""What counts as a bad batch, and what becomes of it.

    x is a spike  <=>  x > m + spike_sigmas max(1.4826 MAD, m / 1000),    m = median x_i,    MAD = median |x_i - m|

for x the loss, and the norm of the gradient before it is clipped, over the x_i of the last WINDOW steps; 1.4826 MAD is
the standard deviation of a Gaussian (Hampel, 1974, J. Am. Stat. Assoc. 69(346)). Every finite value enters the window,
those of skipped batches too: single ones hardly move a median, and a level that has truly changed becomes the rule
behind half a window. PaLM skipped the batches around its spikes by hand (Chowdhery et al., 2022, arXiv 2204.02311, sec.
5.1); OLMo-core's SkipStepOptimizer does it in the step, by mean and standard deviation of the last 128 steps, which
spikes themselves widen.

A step that finds its batch bad leaves the whole state as it is, its step counter included, and so do the steps that the
device has been given meanwhile: their batches are not the state's next. So the host, which looks at a step's verdict
while the device is busy with the one behind it, finds the state before the bad batch, studies it, and orders that
batch skipped, or taken, or stops (`arch.train.guard`). Without a bad batch it gives one order a step, to judge.
"""

import dataclasses
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from arch import config
from arch.typing import Array, Bool, Float, Int

WINDOW = 128
"""Steps that the medians are taken over."""

JUDGE, TAKE, SKIP, LEAVE_OUT = range(4)
"""Orders: take the batch unless it is bad; take a spike; skip a bad batch; leave a batch out unseen (`skip_steps`)."""

REASONS = (
    ("", ""),
    ("loss", "nonfinite"),
    ("gradient_norm", "nonfinite"),
    ("loss", "spike"),
    ("gradient_norm", "spike"),
    ("parameter_norm", "nonfinite"),
)
"""What a verdict's `reason` means: which quantity is what. The last is the fault of an update, and comes behind it."""

_FINE, _LOSS, _NORM, _LOSS_SPIKE, _NORM_SPIKE, _PARAMETERS = range(len(REASONS))


@config.frozen
class Config(config.Config):
    """Bad batches. They are saved in WORKDIR/bad_batches (see `arch.train.forensics`).

    Attributes:
      on_nonfinite: what to do at a loss or gradient that is no finite number: stop behind the last good step, or skip
        the batch.
      on_spike: what to do at a spike: 'off' looks for none, 'save' saves the batch and takes it.
      spike_sigmas: how far above the median a spike is.
      spike_after: steps that there must have been to tell one; at most WINDOW.
      max_skips: bad batches skipped in a row; at one more the run stops.
      max_saved: batches in WORKDIR/bad_batches, at most.
      layer_norms: whether to compute, for the report, the norms of the batch's activations, gradients and weights.
      skip_steps: steps (from 1) whose batch is left out.
    """

    on_nonfinite: Literal["stop", "skip"] = "stop"
    on_spike: Literal["off", "save", "skip", "stop"] = "off"
    spike_sigmas: config.PositiveFloat = 10.0
    spike_after: Annotated[int, config.Range(2, WINDOW)] = WINDOW // 2
    max_skips: config.PositiveInt = 10
    max_saved: config.NonNegativeInt = 20
    layer_norms: bool = True
    skip_steps: tuple[config.PositiveInt, ...] = ()

    def order(self, step: int) -> int:
        """The order for the batch of a step (from 1)."""
        return LEAVE_OUT if step in self.skip_steps else JUDGE

    def action(self, kind: str) -> str:
        """What to do about a 'nonfinite' or a 'spike'."""
        return {"nonfinite": self.on_nonfinite, "spike": self.on_spike}[kind]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Watch:
    """What the train state remembers of its batches.

    Attributes:
      values: [2 WINDOW] float32, losses and gradient norms of the last steps, where step i stands at i mod WINDOW.
      count: [] int32, values that have entered.
      skipped: [] int32, steps that changed no parameter: bad batches, left-out ones, and overflows of a loss scale.
      in_a_row: [] int32, bad batches skipped since the last that was taken.
    """

    values: Any
    count: Any
    skipped: Any
    in_a_row: Any


def init() -> Watch:
    """Before the first step."""
    return Watch(jnp.zeros((2, WINDOW), jnp.float32), jnp.int32(0), jnp.int32(0), jnp.int32(0))


def limits(watch: Watch, cfg: Config) -> Float[Array, "2"]:
    """[2] above which the loss and the norm are spikes; infinite where none are looked for, or not yet."""
    if cfg.on_spike == "off":
        return jnp.full(2, jnp.inf)
    here = jnp.arange(WINDOW) < watch.count
    middle = _median(watch.values, here)
    deviation = _median(jnp.abs(watch.values - middle[:, None]), here)
    sigma = jnp.maximum(1.4826 * deviation, jnp.abs(middle) / 1000)
    return jnp.where(watch.count >= cfg.spike_after, middle + cfg.spike_sigmas * sigma, jnp.inf)


def reason(loss: Float[Array, ""], norm: Float[Array, ""], limits: Float[Array, "2"]) -> Int[Array, ""]:
    """What is wrong with a batch of this loss and gradient norm, as an index of REASONS."""
    tests = [~jnp.isfinite(loss), ~jnp.isfinite(norm), loss > limits[0], norm > limits[1]]
    return jnp.select(tests, jnp.array([_LOSS, _NORM, _LOSS_SPIKE, _NORM_SPIKE], jnp.int32), _FINE)


def reason_behind(
    found: Int[Array, ""], parameter_norm: Float[Array, ""], taken: Bool[Array, ""]
) -> Int[Array, ""]:
    """The same once the update is made, if the batch was taken: also of a spike that was to be taken."""
    return jnp.where(taken & ~jnp.isfinite(parameter_norm), _PARAMETERS, found)


def order(step: int, what: int) -> np.ndarray:
    """[2] int32, what the compiled step is told: to do `what` with this batch, if `step` steps are behind the state."""
    return np.array([step, what], np.int32)


def decide(
    given: Int[Array, "2"], step: Int[Array, ""], found: Int[Array, ""]
) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the state goes on behind this batch, and whether it is changed by it.

    Args:
      given: an `order`.
      step: steps behind the state.
      found: what is wrong with the batch.
    """
    what = given[1]
    goes_on = (given[0] == step) & ((what != JUDGE) | (found == _FINE))
    return goes_on, goes_on & (what <= TAKE)


def after(watch: Watch, loss, norm, *, what, taken: Bool[Array, ""], entered: Bool[Array, ""]) -> Watch:
    """Behind a step.

    Args:
      watch: before it.
      loss, norm: of its batch.
      what: the order.
      taken: whether it changed parameters.
      entered: whether loss and norm are values to go by.
    """
    place = watch.count % WINDOW
    entered = entered & jnp.isfinite(loss) & jnp.isfinite(norm)
    values = jnp.where(entered, watch.values.at[:, place].set(jnp.stack([loss, norm])), watch.values)
    in_a_row = jnp.where(taken, 0, watch.in_a_row + (what == SKIP))
    return Watch(values, watch.count + entered, watch.skipped + ~taken, in_a_row)


def _median(values: Float[Array, "2 w"], here: Bool[Array, "w"]) -> Float[Array, "2"]:
    """Of those columns that are here, the first ones."""
    ordered = jnp.sort(jnp.where(here, values, jnp.inf), axis=1)
    count = jnp.maximum(jnp.sum(here), 1)
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
