"""These tests compile much and compute little."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(quick):
    """All of them."""
