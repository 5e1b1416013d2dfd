"""How many parameters the published architectures have: every preset of `arch/families`, traced and counted.

Sources:   the papers that `paper.json` names, a line a model
Commands:  experiments/parameter_counts/README.md has them, and what they gave
Hardware:  any; nothing is allocated

Option, as in `config.py:small`: there is one size, the published ones.
"""

import importlib
import pathlib

from arch import config, families, tree
from arch.weights import target
from experiments import options

FAMILIES = sorted(file.stem for file in pathlib.Path(families.__file__).parent.glob("[a-z]*.py"))


@config.frozen
class Config(config.Config):
    """What is counted.

    Attributes:
      models: `family.preset` each.
    """

    models: tuple[str, ...]


def presets():
    """Every preset by its name."""
    found = {family: importlib.import_module(f"arch.families.{family}").PRESETS for family in FAMILIES}
    return {f"{family}.{name}": preset for family, of_family in found.items() for name, preset in of_family.items()}


def get_config(arg=""):
    """Every preset."""
    options.parse(arg, size=["small"])
    return config.config_dict(Config, dict(models=tuple(presets())))


def measure(cfg):
    """Of each model all parameters (`total`), those that a token meets (`active`), and those of no table (`body`)."""
    known = presets()
    for name in cfg.models:
        shapes = tree.paths(target.canonical(known[name]))
        total = sum(leaf.size for leaf in shapes.values())
        tables = sum(leaf.size for path, leaf in shapes.items() if path.startswith("embedding/"))
        yield dict(model=name, total=total, active=total - known[name].idle_parameters(), body=total - tables)


def sweep():
    """For `--mode=sweep`: all at once."""
    return [{}]
