"""A balance loss that is disconnected in one place of the source is seen twice: by the tests, and by the run itself."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.train import tiny

WHOLE = "losses.importance(routed.probabilities, real)"
CUT = "losses.importance(jax.lax.stop_gradient(routed.probabilities), real)"


@pytest.fixture(scope="module")
def mutant(tmp_path_factory):
    """A copy of the repository whose balance loss reads probabilities without their gradient."""
    root = tmp_path_factory.mktemp("mutant")
    for name in ("arch", "tests", "configs"):
        shutil.copytree(tiny.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "setup.cfg", "pyproject.toml"):
        shutil.copy(tiny.ROOT / name, root)
    file = root / "arch/ffns/moe.py"
    source = file.read_text()
    assert source.count(WHOLE) == 1
    file.write_text(source.replace(WHOLE, CUT))
    return root


def run_in(root, *command):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root), "XLA_FLAGS": ""}
    return subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_suite_fails(mutant):
    test = "test_the_balance_loss_reaches_every_router_by_the_same_gradient"
    done = run_in(mutant, "-m", "pytest", "-q", "-x", f"tests/ffns/test_moe.py::{test}")
    assert done.returncode == 1 and f"FAILED tests/ffns/test_moe.py::{test}[scan]" in done.stdout, done.stdout


@pytest.mark.slow
def test_the_run_stops_before_its_first_step(mutant, tmp_path):
    text = tiny.write_text(tmp_path / "text.txt")
    flags = f"--config.data.path={text}", f"--workdir={tmp_path / 'run'}"
    done = run_in(mutant, "run.py", "--config=tests/train/tiny.py:hybrid", *flags)
    last = done.stderr.splitlines()[-1]
    where = "'balance' of layers/0/moe by layers/0/moe/router"
    assert done.returncode == 2 and last.startswith(f"error: the gradient of the loss {where} is zero"), done.stderr
