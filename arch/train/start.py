"""The state that a run begins with: its own checkpoint, another run's state, another's parameters, or a fresh one."""

import dataclasses
import functools
import itertools
import logging

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from arch.train import initial, loss_scale, restore
from arch.train import state as states
from arch.train.checkpoint import Checkpoints
from arch.train.setup import Setup

log = logging.getLogger("arch")


class StartError(ValueError):
    """The state that a run should start from does not fit it; the message says why."""


def start(setup: Setup, checkpoints: Checkpoints) -> tuple[states.TrainState, dict[str, float]]:
    """The state to begin with: the run's own checkpoint, else `resume`, else `init_from`, else fresh.

    Returns:
      The state, and the evaluation at its step if this run has made it ({} if not).

    Raises:
      StartError: the state cannot be read, or does not fit the run.
    """
    cfg, plan = setup.cfg, setup.plan
    own = checkpoints.latest_step() >= 0
    try:
        if own:
            state, extra = _restored(checkpoints.restore, plan)
            log.info("resumed step %d of %s", int(state.step), setup.workdir)
        elif cfg.resume:
            folder = restore.find(cfg.resume)
            state, extra = _restored(lambda abstract: restore.restore_step(folder, abstract), plan)
            log.info("started from step %d of %s", int(state.step), cfg.resume)
        elif cfg.init_from:
            fresh = functools.partial(states.init_leaves, setup.model, plan, jax.random.key(cfg.seed))
            params = initial.params(cfg.init_from, cfg.model, plan.abstract.params, fresh)
            log.info("started from the parameters of %s", cfg.init_from)
            return states.around(params, setup.optimizer, plan), {}
        else:
            return states.init(setup.model, setup.optimizer, plan, jax.random.key(cfg.seed)), {}
    except (ValueError, restore.CheckpointError) as error:
        field = "resume" if cfg.resume else "init_from"
        raise StartError(str(error) if own else f"{field}={getattr(cfg, field)!r}: {error}") from error
    if extra["data_fingerprint"] != setup.data.fingerprint:
        source = cfg.resume or setup.workdir
        held = setup.workdir / "data"
        raise StartError(
            f"{source} was trained on other tokens than {held} holds; its parameters alone may be taken, by init_from"
        )
    return state, extra.get("evaluation", {}) if own else {}


def _restored(read, plan: states.Plan) -> tuple[states.TrainState, dict]:
    """What `read` gives of a saved state, which may lack a loss scale or an average, or have a loss scale too many.

    A loss scale that is missing begins anew, a moving average at the restored parameters.
    """
    wanted = plan.abstract
    like = NamedSharding(wanted.step.sharding.mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=like),
        jax.eval_shape(lambda: loss_scale.init(1.0)),
    )
    other = () if wanted.loss_scale else shapes
    first = None
    for scale, average in itertools.product((wanted.loss_scale, other), [wanted.average] + [{}] * bool(wanted.average)):
        try:
            state, extra = read(dataclasses.replace(wanted, loss_scale=scale, average=average))
        except ValueError as error:
            first = first or error
            continue
        return _completed(state, plan), extra
    raise first


def _completed(state: states.TrainState, plan: states.Plan) -> states.TrainState:
    """A restored state with exactly the loss scale and the average that the plan has."""
    scale, average = state.loss_scale, state.average
    if not plan.abstract.loss_scale:
        scale = ()
    elif not scale:
        where = jax.tree.map(lambda leaf: leaf.sharding, plan.abstract.loss_scale)
        scale = jax.jit(lambda: loss_scale.init(plan.beside.loss_scale), out_shardings=where)()
        log.info("the loss scale begins at %g", plan.beside.loss_scale)
    if plan.abstract.average and not average:
        average = jax.tree.map(jnp.copy, state.params)  # a copy: the state is donated leaf by leaf
        log.info("the moving average begins at the restored parameters")
    return dataclasses.replace(state, loss_scale=scale, average=average)
