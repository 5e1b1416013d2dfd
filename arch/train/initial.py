"""What `init_from` names: an earlier run of ours, or a published checkpoint (a folder or a GGUF file)."""

import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from arch import config, tree
from arch.models import encoder
from arch.train import experiment, provenance, restore, upcycled
from arch.typing import Array
from arch.weights import pretrained, transfer

log = logging.getLogger("arch")


def is_published(path) -> bool:
    """Whether a path holds, or should hold, a published checkpoint and none of ours."""
    if not path:
        return False
    path = pathlib.Path(path)
    return path.is_file() or path.suffix == ".gguf" or any(path.glob("*.safetensors*")) or any(path.glob("*.bin"))


def published_model(path: str) -> Any:
    """The model's config of a published checkpoint, which is checked whole but for its values.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    try:
        if not pathlib.Path(path).exists():
            raise ValueError("there is no such file or folder")
        return pretrained.open(path).config
    except (ValueError, OSError) as error:
        raise config.ConfigError(f"init_from={path!r}: {error}") from None


def family(path: str) -> str:
    """The name of the family of the published checkpoint at a path, '' if there is none."""
    if not is_published(path) or not pathlib.Path(path).exists():
        return ""
    return pretrained.open(path).family.__name__.rsplit(".", 1)[-1]


def of_run(
    cfg: experiment.Config, abstract: Any, fresh: Callable[[Sequence[str]], dict[str, Array]] | None = None
) -> tree.Tree:
    """The parameters at a run's `init_from`: those of its model, or with `upcycle` of the dense one that it grows from.

    Args:
      cfg: of the run.
      abstract, fresh: as in `params`.

    Raises:
      ValueError: they cannot be read, or do not fit.
    """
    if cfg.upcycle:
        return upcycled.params(cfg, cfg.init_from, abstract, published=is_published(cfg.init_from))
    return params(cfg.init_from, cfg.model, abstract, fresh)


def params(
    path: str,
    model_cfg: Any,
    abstract: Any,
    fresh: Callable[[Sequence[str]], dict[str, Array]] | None = None,
) -> tree.Tree:
    """The parameters of a run or a published checkpoint, which may be of an encoder with another head.

    Args:
      path: of either.
      model_cfg: of the model that is to have them.
      abstract: its parameters as `jax.ShapeDtypeStruct`s, placed.
      fresh: gives the values of a head's parameters, by path, that the checkpoint lacks; None if it must have all.

    Raises:
      ValueError: they cannot be read, or are another model's.
    """
    if not is_published(path):
        return restore.restore_params(path, abstract)[0]
    found = pretrained.open(path)
    if isinstance(found.config, encoder.Config) and isinstance(model_cfg, encoder.Config):
        found = transfer.with_head(found, model_cfg.head)
    if found.fresh and fresh is None:
        raise ValueError(f"it must hold {', '.join(found.fresh)}: that head is not trained")
    values = pretrained.read(found, abstract)
    if found.fresh:
        values = tree.from_paths(tree.paths(values) | fresh(found.fresh))
    changed = provenance.diff(config.to_dict(found.config), config.to_dict(model_cfg), "model")
    changed = [line for line in changed if line.split(":")[0].rsplit(".", 1)[-1] not in experiment.FREE]
    if changed:
        log.warning("the model is not quite that of %s: %s", path, "; ".join(changed))
    return values
