"""Reading saved states: find the newest whole step, and bring its arrays onto the devices that are asked for.

A state is stored flat, one array a path (`params/layers/scan_0_1/0/mlp/up`), so that any part of it can be read
without the Python classes of the rest. Every process reads only the pieces that its own devices need.
"""

import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from arch import tree
from arch.train import seal

FORMAT_VERSION = 1
"""Version of a checkpoint's layout: a newer one is refused."""

STATE, EXTRA = "state", "extra"
"""The two folders of a step: the arrays, and the JSON beside them."""

PARAMS, AVERAGE = "params/", "average/"
"""How the paths of the parameters begin, and those of their moving average."""


class CheckpointError(OSError):
    """A checkpoint could not be written or read; the message names the path and the reason."""


def restore_params(path, abstract_params: Any = None, *, average: bool = False) -> tuple[Any, dict]:
    """The parameters alone of a saved state, without its optimizer: `(params, extra)`. Only reads: safe beside a run.

    Args:
      path: a workdir, its `checkpoints` folder, or the folder of one step. Of several steps the newest whole one is
        taken; damaged ones are skipped with a warning.
      abstract_params: pytree of `jax.ShapeDtypeStruct` with shardings. None: a nested dict with the saved shapes and
        dtypes, on this process's first device.
      average: their moving average instead.

    Raises:
      CheckpointError: there is no checkpoint at `path`, or none of them is whole.
      ValueError: the saved params have other leaves, shapes or dtypes (they are named), or a newer format.
    """
    return restore_step(find(path), abstract_params, AVERAGE if average else PARAMS)


def find(path) -> pathlib.Path:
    """The folder of the newest whole step in a workdir, in its `checkpoints` folder, or the step folder itself.

    Raises:
      CheckpointError: nothing of the kind is there, or all are damaged.
    """
    path = pathlib.Path(path).absolute()
    if (path / STATE).is_dir():
        if reason := seal.damage(path):
            raise CheckpointError(f"checkpoint {path} is damaged: {reason}")
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    step, _ = newest_whole(folder)
    return folder / str(step)


def newest_whole(folder: pathlib.Path) -> tuple[int, list[int]]:
    """The newest undamaged step in a folder, and the damaged steps that are newer, with one warning for each.

    Process 0 looks; all processes return the same step.

    Raises:
      CheckpointError: there is none; the message says what is wrong with each.
    """
    step, reasons = -1, {}
    if jax.process_index() == 0:
        steps = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
        for step in sorted(steps, reverse=True):
            if not (reason := seal.damage(folder / str(step))):
                break
            reasons[step] = f"checkpoint {folder / str(step)} is damaged: {reason}"
        else:
            step = -1
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    if step < 0 and reasons:
        raise CheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(reasons.values())}")
    if step < 0:
        expected = "a workdir, a folder of checkpoints or the folder of one step"
        raise CheckpointError(f"there is no checkpoint at {folder}: expected {expected}")
    for reason in reasons.values():
        logging.getLogger("absl").warning("%s; using step %d", reason, step)
    return step, list(reasons)


def restore_step(
    path: pathlib.Path, abstract: Any, prefix: str = "", optional: tuple[str, ...] = ()
) -> tuple[Any, dict]:
    """The saved leaves below `prefix` in the structure and shardings of `abstract`, and the `extra` beside them.

    Args:
      path: the folder of one step.
      abstract: pytree of `jax.ShapeDtypeStruct`, or None for a nested dict of what is saved. A leaf without a sharding
        goes to this process's first device.
      prefix: '' for the whole state, PARAMS or AVERAGE for a part of it.
      optional: how the paths of those leaves begin that may be absent: one that is not saved stays what it is in
        `abstract`, and a saved one that `abstract` lacks is left where it is.

    Raises:
      CheckpointError: something cannot be read.
      ValueError: `abstract` has other leaves, shapes or dtypes than what is saved, or the format is newer.
    """
    extra = read_record(path)["extra"]
    handler = ocp.PyTreeCheckpointHandler()
    try:
        saved = {k: leaf for k, leaf in handler.metadata(path / STATE).tree.items() if k.startswith(prefix)}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason_of(error)}") from error
    wanted = saved if abstract is None else {prefix + name: leaf for name, leaf in flatten(abstract).items()}
    saved = {name: leaf for name, leaf in saved.items() if name in wanted or not name.startswith(optional)}
    absent = {name: leaf for name, leaf in wanted.items() if name not in saved and name.startswith(optional)}
    wanted = {name: leaf for name, leaf in wanted.items() if name not in absent}
    if differences := _differences(saved, wanted):
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ValueError(f"checkpoint {path} does not fit the model: {shown}")
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=(abstract is not None and leaf.sharding) or first)
        for name, leaf in wanted.items()
    }
    args = ocp.checkpoint_utils.construct_restore_args(wanted)
    try:
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=args, partial_restore=True)
        flat = handler.restore(path / STATE, args=args)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason_of(error)}") from error
    if abstract is None:
        return tree.from_paths({name.removeprefix(prefix): leaf for name, leaf in flat.items()}), extra
    leaves = [(flat | absent)[prefix + name] for name in flatten(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves), extra


def flatten(state: Any) -> dict[str, Any]:
    """The leaves of any pytree by path: dict keys, field names and indices joined by '/'."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def read_record(path: pathlib.Path) -> dict:
    """The JSON beside a step's arrays: `format_version`, `metrics` and `extra`.

    Raises:
      CheckpointError: it is absent or no JSON.
      ValueError: its format is newer than FORMAT_VERSION.
    """
    file = path / EXTRA / "metadata"
    try:
        record = json.loads(file.read_text())
        version = int(record["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {file}: {reason_of(error)}") from error
    if version > FORMAT_VERSION:
        raise ValueError(f"format_version={version} of {path} must be at most {FORMAT_VERSION}: a newer arch wrote it")
    return record


def reason_of(error: BaseException) -> str:
    """One line on what went wrong; Orbax and TensorStore put the cause at the end of a long message."""
    text = str(error)
    for cause in ("No space left on device", "File too large", "Disk quota exceeded", "Permission denied"):
        if cause in text:
            return cause
    return " ".join(text.split())[-300:] or type(error).__name__


def _differences(saved: dict, wanted: dict) -> list[str]:
    def kind(leaf):
        return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"

    lines = [f"{name} is not saved" for name in wanted if name not in saved]
    lines += [f"{name} is saved but not part of the model" for name in saved if name not in wanted]
    both = [(name, kind(saved[name]), kind(wanted[name])) for name in wanted if name in saved]
    return lines + [f"{name} is {old}, not {new}" for name, old, new in both if old != new]
