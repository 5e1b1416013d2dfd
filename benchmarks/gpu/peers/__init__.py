"""Other people's code that contests are held with, a file a package: each call is what the contest's sides compute.

A function here imports its package when it is called and raises ImportError, which names it, where it is not there or
another version; what it returns is a function of JAX arrays, or a `torch_side.Peer`.
"""

import importlib
import importlib.metadata
from types import ModuleType

VERSIONS = {
    "tokamax": "0.0.17",
    "jax-linear-attention": "0.1.0",
    "fla-core": "0.6.0",
    "mamba-ssm": "2.3.2.post1",
}
"""Those whose calls here are known to be right."""


def need(package: str, module: str) -> ModuleType:
    """This module of an installed package.

    Raises:
      ImportError: it is not installed, in another version than `VERSIONS` has, or cannot be imported.
    """
    wanted = VERSIONS.get(package)
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{package}{wanted and f' {wanted}' or ''} is not installed") from None
    if wanted and found != wanted:
        raise ImportError(f"{package} must be {wanted}, not {found}")
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever keeps other people's packages from being imported
        raise ImportError(f"{package} {found} is installed, but {module} cannot be imported: {error!r}") from error
