"""A program asks for huge pages once, with its own arguments, where the variable is not set."""

import os
import subprocess
import sys

import pytest

from arch.train import huge_pages

PROGRAM = """
import os, sys
from arch.train import huge_pages
huge_pages.ask()
print(os.environ.get('{}'), *sys.argv[1:])
"""


def started(**variables):
    """What a program prints that asks first."""
    given = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE} | variables
    command = [sys.executable, "-c", PROGRAM.format(huge_pages.VARIABLE), "a b", "--c"]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_the_program_runs_with_the_setting_and_its_arguments():
    assert started() == f"{huge_pages.VALUE} a b --c"


def test_a_setting_of_the_user_stays():
    assert started(**{huge_pages.VARIABLE: "glibc.malloc.check=0"}) == "glibc.malloc.check=0 a b --c"


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started anew"))
    huge_pages.ask()
