"""The sweep of every claim can be made, at every size, and its first point runs."""

import functools
import json

import pytest

from arch import config
from arch.train import command_line, experiment, measured, modes, results, sweep, sweep_runs
from arch.train.startup import Startup
from experiments import report
from experiments.record import Point
from tests.experiments.tiny import TINY

NAMES = report.names()
SIZES = [(name, size) for name in NAMES for size in report.read(report.HERE / name)[0].sizes]
MANY = [("multi_query_recall", "paper")]
"""Sweeps of more than thirty points."""
TRAINED = [name for name in NAMES if "def measure(" not in (report.HERE / name / "config.py").read_text()]


def given(name, size="small"):
    return f"{report.HERE / name / 'config.py'}:{size}"


@functools.cache
def configs(name, size="small"):
    return sweep.configs(given(name, size), {}, sweep.read(given(name, size)))


@pytest.mark.parametrize("name, size", [
    pytest.param(*each, marks=[pytest.mark.slow] * (each in MANY)) for each in SIZES
])  # fmt: skip
def test_every_point_is_a_config_of_its_own(name, size):
    cfgs = configs(name, size)
    assert len(set(cfgs)) == len(cfgs)
    for cfg in cfgs:
        if isinstance(cfg, experiment.Config):
            cfg.task.must_suit(cfg.model, seq_len=cfg.seq_len)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in TRAINED)) for name in NAMES])
def test_the_first_point_of_a_claim_runs_for_a_few_steps_and_gives_rows(name, tmp_path):
    point, cfg = sweep.read(given(name))[0], TINY[name](configs(name)[0])
    measure = measured.function(command_line.namespace(given(name)))
    folder = tmp_path / point.folder
    if measure:
        measured.run(measure, cfg, folder, {})
    else:
        modes.train(cfg, str(folder), {}, Startup())
    record = results.Result(0, point.folder, dict(point.overrides), config.to_dict(cfg), "finished", seconds=1.6)
    results.write(tmp_path, record)
    rows = report.read(report.HERE / name)[0].rows(Point(folder, record))
    kept = report.read(report.HERE / name)[1].get("small")
    assert rows and json.loads(json.dumps(rows)) == rows
    assert kept is None or any(rows[0].keys() == row.keys() for row in kept["rows"])


def test_a_sweep_that_measures_is_recorded_as_one_that_trains(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(MEASURED)
    todo = sweep_runs.check(str(file), {}, str(tmp_path / "run"))
    sweep_runs.run_point(todo, 1, {}, Startup(), main=True)
    (record,) = results.read(tmp_path / "run")
    assert (record.index, record.status, record.config) == (1, "finished", {"number": 3})
    folder = tmp_path / "run" / record.folder
    assert measured.read(folder) == [{"square": 9}]
    assert json.loads((folder / "versions.json").read_text())[-1]["packages"]["jax"]
    file.write_text(MEASURED.replace("[2, 3]", "[2, 4]"))
    with pytest.raises(ValueError, match="point 1 .*number=3.* is point 1 .*number=4.* now"):
        sweep_runs.check(str(file), {}, str(tmp_path / "run"))


def test_a_measuring_file_without_a_config_class_is_refused(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(MEASURED.replace("class Config(config.Config)", "class Other(config.Config)"))
    with pytest.raises(config.ConfigError, match="must define the class Config, too"):
        sweep_runs.check(str(file), {}, str(tmp_path / "run"))


def test_a_measured_number_out_of_its_range_is_refused_with_its_path(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(MEASURED.replace("[2, 3]", "[2, -3]"))
    with pytest.raises(config.ConfigError, match="point 1 .*number=-3"):
        sweep_runs.check(str(file), {}, str(tmp_path / "run"))


MEASURED = """
from arch import config, hyper

@config.frozen
class Config(config.Config):
    number: config.PositiveInt

def get_config(arg=""):
    from ml_collections import ConfigDict
    return ConfigDict(dict(number=1))

def measure(cfg):
    return [dict(square=cfg.number**2)]

def sweep():
    return hyper.sweep("number", [2, 3])
"""
