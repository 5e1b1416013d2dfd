"""Time and memory of attention against the length: all pairs, and the patterns of Longformer and BigBird.

Sources:   Beltagy et al., Longformer, 2020, arXiv 2004.05150; Zaheer et al., Big Bird, 2020, arXiv 2007.14062
Commands:  `python -m benchmarks.attention_scaling PART` measures, for minutes each; what it keeps is read here.
           experiments/attention_scaling/README.md has the commands of the page, and the numbers
Hardware:  2 CPU cores

Options, as in `config.py:small`: there is one size.
"""

import json
import pathlib

from arch import config
from experiments import options

FORMS = ("longformer", "bigbird", "dense", "reference")
KEPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "results" / "attention_scaling-cpu.json"


@config.frozen
class Config(config.Config):
    """What is read.

    Attributes:
      forms: parts of the benchmark, those of FORMS that it has measured.
    """

    forms: tuple[str, ...] = FORMS


def get_config(arg=""):
    """All forms."""
    options.parse(arg, size=["small"])
    return config.config_dict(Config, {})


def measure(cfg):
    """A row for each length of each form that the benchmark has kept, with its date.

    A form that it has not measured by itself has the row of part 16k, in which all but the last are.
    """
    kept = {command.split()[-1]: part for command, part in json.loads(KEPT.read_text()).items()}
    at_16k = kept["16k"]
    for form in cfg.forms:
        part = kept.get(form, at_16k)
        found = part["rows"] if form in kept else [{"length": part["length"]} | part["rows"].get(form, {})]
        for row in found:
            if "least_ms" in row:
                numbers = {name: row[name] for name in ("length", "least_ms", "temporary_mib")}
                yield dict(form=form) | numbers | dict(measured=part["date"])


def sweep():
    """For `--mode=sweep`: one point, which reads all."""
    return [{}]
