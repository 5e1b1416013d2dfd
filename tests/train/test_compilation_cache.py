"""What a run compiles is kept in its workdir, unless JAX is told of another place: a resume need not compile again."""

import subprocess

import pytest

from tests.train import tiny

pytestmark = pytest.mark.slow
ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def train(text, workdir, environment, *flags):
    """Names of the programs that are in the workdir then."""
    done = subprocess.run(tiny.command(text, workdir, "mlp", *flags), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = workdir / "compilation_cache"
    return sorted(path.name.split("-")[0] for path in folder.iterdir()) if folder.exists() else []


def test_a_resume_takes_the_step_from_the_workdir(text, tmp_path, cache_dir):
    environment = tiny.environment(cache_dir)
    environment = {name: value for name, value in environment.items() if "COMPILATION_CACHE" not in name}
    kept = train(text, tmp_path / "run", environment | ALL)
    assert kept.count("jit_step") == 1
    assert train(text, tmp_path / "run", environment | ALL, "--config.total_steps=12").count("jit_step") == 1


def test_another_place_that_jax_knows_is_kept_to(text, tmp_path):
    assert train(text, tmp_path / "run", tiny.environment(tmp_path / "elsewhere") | ALL) == []
    assert list((tmp_path / "elsewhere").iterdir())
