"""Runs every contract on every example of every sublayer."""

import pytest

from tests.contracts.sublayers import FFNS, MIXERS, Case, case_of

SUBLAYERS = MIXERS | FFNS


@pytest.fixture(scope="session", params=SUBLAYERS)
def case(request) -> Case:
    """One example, shared by its tests so that each of its calls compiles once."""
    return case_of(SUBLAYERS[request.param])
