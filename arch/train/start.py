"""The state that a run begins with: its own checkpoint, another run's state, another's parameters, or a fresh one."""

import dataclasses
import functools
import logging

import jax

from arch.train import disk as disks
from arch.train import initial, restore
from arch.train import state as states
from arch.train.checkpoint import Checkpoints
from arch.train.setup import Setup

log = logging.getLogger("arch")

BESIDE = {
    "average": "the moving average begins at the restored parameters",
    "loss_scale": "the loss scale begins anew",
    "watch": "the record of losses and gradient norms begins anew",
}
"""Fields of a state that a run may gain or lose when it goes on, and what is said when one is not in the checkpoint."""


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
            where = lambda step: setup.workdir / "checkpoints" / str(step)
            state, extra = _restored(checkpoints.restore, setup, where)
            log.info("resumed step %d of %s", int(state.step), setup.workdir)
        elif cfg.resume:
            found = restore.find(cfg.resume)
            state, extra = _restored(functools.partial(restore.restore_step, found), setup, lambda _: found)
            log.info("started from step %d of %s", int(state.step), cfg.resume)
        elif cfg.init_from:
            fresh = functools.partial(states.init_leaves, setup.model, plan, jax.random.key(cfg.seed))
            params = initial.of_run(cfg, plan.abstract.params, fresh)
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


def _restored(read, setup: Setup, where) -> tuple[states.TrainState, dict]:
    """What `read` gives of a saved state; what the plan has beside its parameters and is not there, begins anew.

    Means that belong in files go there one by one, from `where` the state's step was saved.
    """
    plan, disk = setup.plan, setup.disk
    abstract = dataclasses.replace(plan.abstract, opt_state=disks.bare(plan.abstract.opt_state))
    filed = disks.in_files(abstract) if disk else []
    state, extra = read(abstract, optional=tuple([f"{field}/" for field in BESIDE] + filed))
    if disk:
        one = lambda path, leaf: restore.restore_step(folder, leaf, f"opt_state/{path}", (f"opt_state/{path}",))[0]
        folder = where(int(state.step))
        disk.load(abstract.opt_state, one)
        state = dataclasses.replace(state, opt_state=disks.begun(plan.abstract.opt_state, state.opt_state))
    had_average = extra.get("config", {}).get("ema", {}).get("decay", 0)
    if had_average and not plan.beside.average:
        log.info("the moving average is given up: ema.decay is 0, and was %g", had_average)
    absent = [field for field in BESIDE if any(map(_is_abstract, jax.tree.leaves(getattr(state, field))))]
    if not absent:
        return state, extra
    where = {field: jax.tree.map(lambda leaf: leaf.sharding, getattr(plan.abstract, field)) for field in absent}

    def begun(params):
        return {field: value for field, value in states.begun(params, plan.beside).items() if field in absent}

    new = jax.jit(begun, out_shardings=where)(state.params)
    for field in absent:
        log.info(BESIDE[field])
        whole = jax.tree.map(lambda old, one: one if _is_abstract(old) else old, getattr(state, field), new[field])
        state = dataclasses.replace(state, **{field: whole})
    return state, extra


def _is_abstract(leaf) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
