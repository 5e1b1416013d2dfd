"""Points of a sweep that are measured, not trained: those of a config file with a `Config` and `measure` of its own.

    class Config(config.Config)     what is to be measured, frozen (`arch.config.frozen`)
    def get_config(arg=""):         `config.config_dict(Config, {...})`, whose leaves a sweep or a command line may set
    def measure(cfg):               measures a Config, and returns rows: mappings of what JSON can hold

    FOLDER/measured.json            the rows; beside them the files of `arch.train.provenance`
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from arch import config
from arch.train import command_line, provenance

FILE = "measured.json"

Measure = Callable[[Any], Iterable[Mapping[str, Any]]]


def function(space: Mapping[str, Any]) -> Measure | None:
    """`measure` of what a config file defines; None where the file's runs are trained.

    Raises:
      ConfigError: there is no `Config` beside it.
    """
    measure = space.get("measure")
    kind = space.get("Config")
    if measure is not None and not (isinstance(kind, type) and issubclass(kind, config.Config)):
        raise config.ConfigError("a config file that defines measure(cfg) must define the class Config, too")
    return measure


def run(measure: Measure, cfg: config.Config, folder: str | pathlib.Path, overrides: Mapping[str, Any]) -> list[dict]:
    """Measures a point, and writes its rows.

    Args:
      measure: of the config file.
      cfg: of the point.
      folder: of the point.
      overrides: what the command line and the sweep set of the config.

    Returns:
      The rows.
    """
    provenance.write(folder, config.to_dict(cfg), overrides)
    with command_line.one_line_errors(ValueError, OSError):
        rows = [dict(row) for row in measure(cfg)]
    provenance.write_json(pathlib.Path(folder) / FILE, rows)
    return rows


def read(folder: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a point."""
    return json.loads((pathlib.Path(folder) / FILE).read_text())
