"""What the tests of the tasks share."""

import pytest

from tests.train import tiny


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of text."""
    return tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt")
