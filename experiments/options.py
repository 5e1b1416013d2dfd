"""The options of an experiment's config, each one of some names: `config.py:small,mixer=mamba`."""

import types
from collections.abc import Collection

from arch import config


def parse(arg: str, **choices: Collection[str]) -> types.SimpleNamespace:
    """What the config's argument chooses.

    Args:
      arg: the text behind the colon, '' when there is none; a bare word is the first option's.
      **choices: of each option the values that it can have, the first of which it has unless another is given.

    Raises:
      ConfigError: an option that does not exist or is given twice, or a value that is none of its choices.
    """
    given = config.parse_arg(arg, **{name: next(iter(known)) for name, known in choices.items()})
    for name, known in choices.items():
        if getattr(given, name) not in known:
            raise config.ConfigError(f"option {name}={getattr(given, name)!r} must be one of {', '.join(known)}")
    return given
