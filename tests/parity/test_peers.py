"""Beside the peers themselves: the goldens are what they compute today, and they read what we export.

Run where the peers are: under the Python that ARCH_PEERS_PYTHON names, or in the environment that `make peers` makes,
or here where torch and transformers can be imported.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest

from arch.train import verify
from arch.weights.export import export
from tests.parity import ours
from tests.parity.cases import ALL, CASES

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = verify.peers_python()

MISSING = f"no peers at {PYTHON} (torch, transformers): run `make peers`"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.path.exists(PYTHON), reason=MISSING)]


def peer(*args) -> None:
    """Runs tests/parity/peer.py in the peers' environment."""
    command = [PYTHON, "-m", "tests.parity.peer", *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]


def assert_same(actual: dict, expected: dict) -> None:
    """The same arrays: integers exactly, others but for rounding."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        atol = 0 if value.dtype.kind == "i" else 3e-5 * np.abs(value).max()
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=atol, err_msg=key)


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """The goldens, made anew."""
    folder = tmp_path_factory.mktemp("goldens")
    peer("make", "--out", folder)
    return folder


@pytest.mark.parametrize("name", ALL)
def test_the_golden_is_what_the_peer_computes_today(name, today):
    about, arrays = ours.golden(name)
    new_about, new_arrays = ours.read_golden(today / f"{name}.npz")
    assert new_about["tensors"] == about["tensors"]
    assert_same(new_arrays, arrays)


@pytest.fixture(scope="module")
def read_by_the_peer(tmp_path_factory):
    """What the peer computes of the checkpoints that we export."""
    folder = tmp_path_factory.mktemp("exported")
    for name in CASES:
        found, params = ours.loaded(name)
        export(found.config, params, folder / name, family=ours.family_of(name))
    peer("run", folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_peer_reads_what_we_export_and_computes_the_same(name, read_by_the_peer):
    with np.load(read_by_the_peer / f"{name}.npz") as file:
        assert_same(dict(file), ours.golden(name)[1])
