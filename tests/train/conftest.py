"""What the tests of the road share: a text, and compilations that are fast and not repeated."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.train import tiny

@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of text."""
    return tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    """A folder for JAX's compilation cache."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def quick(cache_dir):
    """Compiles each program once in all tests."""
    settings = {
        "jax_persistent_cache_min_compile_time_secs": (0.0, 1.0),
        "jax_compilation_cache_dir": (str(cache_dir), None),
    }
    for name, (value, _) in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, (_, default) in settings.items():
        jax.config.update(name, default)
    compilation_cache.reset_cache()
