"""Lengths and intervals of a run in any unit: `total_tokens=1_000_000`, `eval_every_percent=5`, `warmup_epochs=0.5`.

    steps = examples / batch_size,    examples = tokens / seq_len = epochs * examples of an epoch

A length is spelled by one field a unit, of which one is set and the others are 0 (0 for all: the length is not set).
`resolve` turns whatever is set into steps, rounded up to whole ones, so that nothing after it knows other units.
"""

import math
from collections.abc import Callable

UNITS = ("steps", "tokens", "examples", "epochs", "percent")
"""Examples are rows of `seq_len` tokens; percents are of the whole run."""


def unit(cfg, name: str) -> str:
    """The unit in which a config spells the length `name` ('total', 'eval_every' ...), '' when it does not.

    Raises:
      ValueError: two units are set.
    """
    fields = [f"{name}_{unit}" for unit in UNITS if getattr(cfg, f"{name}_{unit}", 0)]
    if len(fields) > 1:
        values = " and ".join(f"{field}={getattr(cfg, field)}" for field in fields)
        raise ValueError(f"{values}: only one may be set, the others must be 0")
    return fields[0].removeprefix(f"{name}_") if fields else ""


def in_steps(cfg, name: str) -> int:
    """The length `name` of a resolved config in steps, 0 when it is not set. Raises ValueError in another unit."""
    spelled = unit(cfg, name) or "steps"
    if spelled != "steps":
        raise ValueError(f"{name}_{spelled}={getattr(cfg, f'{name}_{spelled}')} must be resolved to steps first")
    return getattr(cfg, f"{name}_steps")


def resolve(cfg, name: str, *, batch_size: int, seq_len: int, epoch_examples: Callable[[], int], total_steps: int = 0):
    """A copy of a config whose length `name` is in steps.

    Args:
      cfg: has the fields `<name>_steps`, `<name>_tokens` ...
      name: of the length.
      batch_size: examples of a step.
      seq_len: tokens of an example.
      epoch_examples: gives the examples of an epoch; called only where epochs are set.
      total_steps: of the run, of which percents are taken.
    """
    spelled = unit(cfg, name)
    if spelled in ("", "steps"):
        return cfg
    value = getattr(cfg, f"{name}_{spelled}")
    if spelled == "percent":
        steps = value / 100 * total_steps
    else:
        sizes = {"tokens": lambda: 1 / seq_len, "examples": lambda: 1, "epochs": epoch_examples}
        steps = value * sizes[spelled]() / batch_size
    steps = math.ceil(round(steps, 6))  # 3.0000000000000004 is 3
    return cfg.replace(**{f"{name}_{spelled}": 0, f"{name}_steps": max(1, steps)})
