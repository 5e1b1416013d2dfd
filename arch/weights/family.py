"""The families by the files of `arch/families`: which one reads a published config, and which one writes ours."""

import importlib
import pathlib
from types import ModuleType
from typing import Any

from arch import families


def modules() -> dict[str, ModuleType]:
    """The families that have published weights, by the name of their file."""
    files = sorted(pathlib.Path(families.__file__).parent.glob("[!_]*.py"))
    found = {file.stem: importlib.import_module(f"arch.families.{file.stem}") for file in files}
    return {stem: module for stem, module in found.items() if getattr(module, "MODEL_TYPES", ())}


def reading(model_type: Any) -> ModuleType:
    """The family that reads this `model_type`. Raises ValueError, naming the known ones, unless it is exactly one."""
    known = [(name, stem, module) for stem, module in modules().items() for name in module.MODEL_TYPES]
    found = {stem: module for name, stem, module in known if name == model_type}
    if not found:
        raise ValueError(f"model_type={model_type!r} must be one of {', '.join(sorted(name for name, _, _ in known))}")
    if len(found) > 1:
        raise ValueError(f"model_type={model_type!r} is of several families: {', '.join(found)}")
    return next(iter(found.values()))


def writing(model_cfg: Any, name: str = "") -> tuple[ModuleType, dict[str, Any]]:
    """The family that expresses a model, and its config.json.

    A family that specialises another (a Mistral is a LLaMA with a window) yields to that one where both can: more
    readers know the plainer form.

    Args:
      model_cfg: of the model.
      name: of the family's file; '' for the only one that can express the model and does not yield.

    Raises:
      ValueError: no family can, each with its reason, or several can.
    """
    known = modules()
    if name and name not in known:
        raise ValueError(f"family={name!r} must be one of {', '.join(known)}")
    accepted, reasons = {}, {}
    for stem in [name] if name else known:
        try:
            accepted[stem] = known[stem].write(model_cfg)
        except ValueError as error:
            reasons[stem] = f"{stem}: {error}"
    if not accepted:
        raise ValueError(f"no family can express this model: {'; '.join(reasons.values())}")
    for stem in [stem for stem in accepted if getattr(known[stem], "SPECIALISES", "") in accepted]:
        del accepted[stem]
    if len(accepted) > 1:
        raise ValueError(f"family must be named: {', '.join(accepted)} can all express this model")
    [(stem, attributes)] = accepted.items()
    return known[stem], attributes
