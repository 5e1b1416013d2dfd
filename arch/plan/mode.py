"""`--mode=plan`: prints a plan, or the search for the fastest, and keeps it in the workdir."""

import jax

from arch.layers.flops import UnknownFlops
from arch.plan import plan as plans
from arch.plan import report, search, topology
from arch.train import experiment
from arch.train.setup import check_writable


def plan(cfg: experiment.Config, workdir, where: str, *, price: float, searches: bool, compiles: int) -> None:
    """Plans a run for the topology that `where` names.

    Args:
      cfg: of the run.
      workdir: pathlib.Path of the folder that keeps the plan.
      where: `--topology`.
      price: of a chip for an hour; 0 where it is not known.
      searches: whether to look for the fastest mesh, batch and rematerialisation first, and then plan that.
      compiles: how many of them to compile.

    Raises:
      ValueError: as `arch.plan.plan.plan` and `arch.plan.search.search` do.
      OSError: the workdir cannot be written.
    """
    jax.config.update("jax_platforms", "cpu")  # with libtpu here JAX would look for TPUs
    place = topology.parse(where)
    check_writable(workdir)
    try:
        found, words = _found(cfg, place, price, searches, compiles)
    except UnknownFlops as error:
        raise ValueError(f"--mode=plan needs the FLOPs of all parts of the model: {error}") from None
    print(words)
    plans.write(found, words, workdir)


def _found(cfg, place, price, searches, compiles) -> tuple[dict, str]:
    """What was found, as data and as text."""
    if searches:
        found = search.search(cfg, place, price=price, compiles=compiles)
        best = found["tried"][0]["plan"]
        return found, f"{search.text(found)}\n\n{report.text(best)}"
    found = plans.plan(cfg, place, price=price)
    return found, report.text(found)
