"""1F1B: each stage goes forward with one micro-batch and backward with an earlier one, so that few are ever under way.

    stage s goes forward at tick k with the micro-batch k - s, and backward at tick k with k - 2 (S - 1) + s
    it keeps what entered it of at most 2 (S - 1 - s) + 1 micro-batches, however many there are
    time = (S - 1) forward + M (forward + loss + backward) + (S - 1) backward,    bubble = (S - 1) / (M + S - 1)

with S stages and M micro-batches. The schedule is PipeDream-flush: Narayanan et al., Memory-Efficient Pipeline-Parallel
DNN Training, 2020, arXiv 2006.09503, sec. 3.2; called 1F1B in Narayanan et al., 2021, arXiv 2104.04473, sec. 2.2.1.
There stage s keeps S - s micro-batches: each stage works as soon as it can. Here all stages take their turns together,
as one program does, and a micro-batch is under way for twice as many.

Backward, a stage computes its layers again from what entered it, which alone is kept, and adds each layer's gradient in
place to its sum over the micro-batches: beside these sums there is never a gradient of all layers. The loss of a micro-
batch and its gradient are computed between both turns of the last stage; so this is no function that one could
differentiate, but a value together with its gradient. What comes before the first stage and behind the last one belongs
to no stage: the compiler places it, as it does without stages.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from arch.sharding import pipeline
from arch.sharding.pipeline import AXIS


def forward_turn(tick, stage):
    """The micro-batch with which a stage goes forward at a tick; it idles where there is none of this number."""
    return tick - stage


def backward_turn(tick, stage, num_stages: int):
    """The same, backward."""
    return tick - 2 * (num_stages - 1) + stage


def room(num_stages: int) -> int:
    """Micro-batches of which a stage can keep what entered it: as many as the first one has under way."""
    return 2 * num_stages - 1


def value_and_grad(
    enter: Callable,
    through: Callable,
    leave: Callable,
    layers: Any,
    fixed: Any,
    rest: Any,
    *,
    alike: Callable,
    cfg: pipeline.Config,
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The sum of a loss over micro-batches and its gradient, on the mesh that `jax.set_mesh` set.

    Args:
      enter: enter(rest, m) -> what enters the first stage of micro-batch m: a tree of arrays.
      through: through(layers, fixed, shared, stage, passed, busy) -> the like, behind the layers of a stage, whose own
        part of `layers` and `fixed` it gets. It takes them by `pipeline.Stacked`, so that their gradient comes from
        busy turns alone.
      leave: leave(rest, m, passed) -> (value, log): what the micro-batch adds to the loss and, a tree of arrays, to the
        log.
      layers: [repeats ...] weights of the layers: a tree.
      fixed: [repeats ...] what they have beside them, of which there is no gradient: a tree.
      rest: all other weights: a tree.
      alike: alike(rest) -> shared, what of the rest the layers read: a tree.
      cfg: of the pipeline.

    Returns:
      ((value, log), (gradient of layers, gradient of rest)), sums over all micro-batches.
    """
    size = pipeline.stages()
    parts = cfg.parts(size)
    some = lambda m: jnp.clip(m, 0, parts - 1)
    shared, pull_shared = jax.vjp(alike, rest)
    held = layers, fixed, shared

    def forward(k, state):
        return _forward(through, size, k, held, *state, enter(rest, some(forward_turn(k, 0))))

    def backward(k, inputs, d_left, state):
        *own, d_rest = state
        *own, d_entered = _backward(through, size, parts, k, held, inputs, d_left, *own)
        m = backward_turn(k, 0, size)
        _, pull = jax.vjp(lambda rest: _reals(enter(rest, some(m))), rest)
        return *own, _added(d_rest, *pull(d_entered), (m >= 0) & (m < parts))

    def steady(state, k):
        ahead, behind, sums = state
        *ahead, left = forward(k, ahead)
        loss = lambda rest, reals: leave(rest, forward_turn(k, size - 1), _with_reals(left, reals))
        found, (more, d_left) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(rest, _reals(left))
        *behind, d_rest = backward(k, ahead[-1], d_left, behind)
        return (tuple(ahead), (*behind, _added(d_rest, more)), _added(sums, found)), None

    entering = jax.eval_shape(enter, rest, 0)
    ahead = _zeros(entering, size), _zeros(entering, size, room(size))
    behind = _zeros(_reals(entering), size), _zeros(layers), _zeros(shared, size), _zeros(rest)
    sums = _zeros(jax.eval_shape(leave, rest, 0, entering))
    filling, full, emptying = jnp.split(jnp.arange(parts + 2 * (size - 1)), (size - 1, parts + size - 1))
    ahead, _ = lax.scan(lambda state, k: (forward(k, state)[:-1], None), ahead, filling)
    ((_, inputs), behind, sums), _ = lax.scan(steady, (ahead, behind, sums), full)
    none = _zeros(_reals(entering))
    behind, _ = lax.scan(lambda state, k: (backward(k, inputs, none, state), None), behind, emptying)
    _, d_layers, d_shared, d_rest = behind
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), d_shared)
    return sums, (d_layers, _added(d_rest, *pull_shared(total)))


def _forward(through, size, k, held, passed, inputs, entering):
    """A tick: (what each stage gets from the one before it, what it keeps, what leaves the last one)."""

    def on_stage(stage, split, whole):
        (layers, fixed, *state), (k, shared, entering) = split, whole
        passed, inputs = _alone(state)
        passed = pipeline.where(stage == 0, entering, passed)
        put = lambda leaf, new: lax.dynamic_update_index_in_dim(leaf, new, forward_turn(k, stage) % room(size), 0)
        out = through(layers, fixed, shared, stage, passed, jnp.bool_(True))
        onward = _sent(out, [(s, s + 1) for s in range(size - 1)])
        return _beside((onward, jax.tree.map(put, inputs, passed))), _from(out, stage == size - 1)

    layers, fixed, shared = held
    (passed, inputs), left = _on_stages(on_stage, (layers, fixed, passed, inputs), (k, shared, entering))
    return passed, inputs, left


def _backward(through, size, parts, k, held, inputs, d_left, d_passed, d_layers, d_shared):
    """A tick: (what each stage gets from the one behind it, sums of gradients, what leaves the first one)."""

    def on_stage(stage, split, whole):
        (layers, fixed, d_layers, *state), (k, shared, d_left) = split, whole
        inputs, d_out, d_shared = _alone(state)
        m = backward_turn(k, stage, size)
        busy, entered = (m >= 0) & (m < parts), pipeline.at(inputs, m % room(size))

        def again(layers, shared, reals):
            return _reals(through(layers, fixed, shared, stage, _with_reals(entered, reals), busy))

        _, pull = jax.vjp(again, layers, shared, _reals(entered))
        sums = jax.tree.map(jax.new_ref, d_layers)
        values = jax.tree.map(lambda _: jax.ad.GradValue(), (shared, _reals(entered)))
        _, of_shared, d_in = pull.with_refs(sums, *values)(pipeline.where(stage == size - 1, d_left, d_out))
        own = _sent(d_in, [(s + 1, s) for s in range(size - 1)]), _added(d_shared, of_shared, busy)
        return (jax.tree.map(jax.freeze, sums), *_beside(own)), _from(d_in, stage == 0)

    layers, fixed, shared = held
    split = layers, fixed, d_layers, inputs, d_passed, d_shared
    (d_layers, d_passed, d_shared), d_entered = _on_stages(on_stage, split, (k, shared, d_left))
    return d_passed, d_layers, d_shared, d_entered


def _on_stages(function: Callable, split: Any, whole: Any) -> tuple[Any, Any]:
    """function(stage, split, whole) -> (split, whole) on each stage: what is split has stages or layers first."""
    own, all_have = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(
        lambda stage, *given: function(stage[0], *given),
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(own, own, all_have),
        out_specs=(own, all_have),
        axis_names={AXIS},
        check_vma=False,
    )
    return mapped(jnp.arange(pipeline.stages()), split, whole)


def _alone(tree: Any) -> Any:
    """Inside a stage: its own, of what has stages first."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _beside(tree: Any) -> Any:
    """The inverse."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _sent(tree: Any, pairs: list[tuple[int, int]]) -> Any:
    """Inside a stage: what another one sends, zeros where none does."""
    return jax.tree.map(lambda leaf: lax.ppermute(leaf, AXIS, pairs), tree)


def _from(tree: Any, chosen) -> Any:
    """Inside a stage: what the chosen one has. The sum is wide: XLA's CPU code cannot in bfloat16."""

    def of(leaf):
        wide = jnp.promote_types(leaf.dtype, jnp.float32 if _is_real(leaf) else jnp.int32)
        return lax.psum(jnp.where(chosen, leaf, jnp.zeros_like(leaf)).astype(wide), AXIS).astype(leaf.dtype)

    return jax.tree.map(of, tree)


def _added(total: Any, more: Any, busy=True) -> Any:
    """Not even an infinity is added of one that idles."""
    return jax.tree.map(lambda leaf, new: leaf + jnp.where(busy, new, 0), total, more)


def _is_real(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _reals(tree: Any) -> list:
    """The leaves that have a gradient."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_real(leaf)]


def _with_reals(tree: Any, reals: list) -> Any:
    """The tree with these in their places."""
    new = iter(reals)
    return jax.tree.map(lambda leaf: next(new) if _is_real(leaf) else leaf, tree)


def _zeros(tree: Any, *sizes: int) -> Any:
    """As many zeros as the tree has numbers, so many times."""
    return jax.tree.map(lambda leaf: jnp.zeros((*sizes, *leaf.shape), leaf.dtype), tree)
