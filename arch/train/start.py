"""The state that a run begins with: its own checkpoint, another run's state, another's parameters, or a fresh one."""

import logging

import jax

from arch.train import initial, restore
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
            state, extra = checkpoints.restore(plan.abstract)
            log.info("resumed step %d of %s", int(state.step), setup.workdir)
        elif cfg.resume:
            state, extra = restore.restore_step(restore.find(cfg.resume), plan.abstract)
            log.info("started from step %d of %s", int(state.step), cfg.resume)
        elif cfg.init_from:
            params = initial.params(cfg.init_from, cfg.model, plan.abstract.params)
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
