"""The points of a sweep: read in three spellings, named, checked and turned into configs."""

import pathlib

import pytest

from arch import config
from arch.train import command_line, sweep
from tests.commands import ROOT

CONFIG = """
import numpy as np
from arch import hyper
from tests.train import tiny

def get_config(arg=""):
    return tiny.get_config(arg or "mlp")

"""
SPELLINGS = {
    "ours": "def sweep():\n    return hyper.product([hyper.sweep('seed', (1, 2)), [{'arg': 'hybrid', 'seq_len': 31}]])",
    "scenic": """def get_hyper(hyper):
    seeds = hyper.sweep('config.seed', hyper.discrete([1, 2]))
    rest = hyper.zipit([hyper.fixed('config.arg', 'hybrid', length=1), hyper.sweep('config.seq_len', [31])])
    return hyper.product([seeds, rest])""",
    "uncertainty-baselines": """def get_sweep(hyper):
    return hyper.chainit([hyper.product([hyper.sweep('config.seed', [i]), hyper.sweep('config.arg', ['hybrid']),
                                         hyper.sweep('config.seq_len', np.array([31]))]) for i in (1, 2)])""",
    "big_vision": """def sweep(add):
    for seed in (1, 2):
        add('hybrid', **{'seed': seed, 'seq_len': 31})""",
    "its argument": """def sweep(add, arg=None):
    for seed in (1, 2):
        add(arg='hybrid', seed=seed, seq_len=31 if arg == '' else 37)""",
    "a generator": "def sweep():\n    yield from (dict(seed=i, arg='hybrid', seq_len=np.int8(31)) for i in (1, 2))",
}
TOP_K = "model.layers.pattern[0].sublayers[1].top_k"


@pytest.fixture
def file(tmp_path):
    """Writes a config file with a sweep; returns its path."""

    def write(text):
        path = tmp_path / "config.py"
        path.write_text(CONFIG + text)
        return str(path)

    return write


def points(*overrides):
    return [sweep.Point(index, each) for index, each in enumerate(overrides)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_points(file, spelling):
    found = sweep.read(file(SPELLINGS[spelling]))
    expected = [{"seed": 1, "arg": "hybrid", "seq_len": 31}, {"seed": 2, "arg": "hybrid", "seq_len": 31}]
    assert [dict(point.overrides) for point in found] == expected
    assert [point.index for point in found] == [0, 1]
    assert all(type(point.overrides["seq_len"]) is int for point in found)


def test_a_point_sets_leaves_inside_tuples_and_the_argument_and_leaves_the_others_alone(file):
    given = file(f"def sweep():\n    return [{{'arg': 'hybrid', '{TOP_K}': 3}}, {{'optimizer.learning_rate': 3}}]")
    first, second = sweep.configs(given, {"seed": 7}, sweep.read(given))
    assert command_line.leaf_at(config.to_dict(first), TOP_K) == 3
    assert len(second.model.layers.pattern) == 1 and second.optimizer.learning_rate == 3.0
    assert (first.seed, second.seed, first.optimizer.learning_rate) == (7, 7, 0.01)


def test_a_point_may_set_a_whole_block(file):
    block = {"name": "mlp", "hidden_dim": 5}
    given = file(f"def sweep():\n    return [{{'model.layers.pattern[0].sublayers': [{block}, {block}]}}]")
    (cfg,) = sweep.configs(given, {}, sweep.read(given))
    assert [part.hidden_dim for part in cfg.model.layers.pattern[0].sublayers] == [5, 5]


def test_an_argument_of_a_point_follows_that_of_the_command_line():
    given = f"{ROOT / 'configs/demo.py'}:ffn=moe"
    (cfg,) = sweep.configs(given, {}, points({"arg": "mixer=mamba"}))
    assert [type(block.sublayers[0]).__module__ for block in cfg.model.layers.pattern] == ["arch.mixers.mamba"] * 2
    with pytest.raises(config.ConfigError, match="option 'ffn' in config argument 'ffn=moe,ffn=moe' is given twice"):
        sweep.configs(given, {}, points({"arg": "ffn=moe"}))


def test_a_model_that_follows_from_where_the_run_starts_follows_from_the_point(file):
    given = file(
        "from arch.train import command_line\n"
        "def get_config(): return tiny.get_config(command_line.override('init_from'))\n"
        "def sweep(): return [{'init_from': 'hybrid'}, {'seed': 1}]"
    )
    first, second = sweep.configs(given, {}, sweep.read(given))
    assert (len(first.model.layers.pattern), len(second.model.layers.pattern)) == (2, 1)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_sweep_of_every_config_can_be_run(path):
    if "def sweep(" in path.read_text():
        found = sweep.read(str(path))
        cfgs = sweep.configs(str(path), {}, found)
        assert len(cfgs) == len(found) == len(set(cfgs)) > 1
    else:
        with pytest.raises(config.ConfigError, match="defines no sweep"):
            sweep.read(str(path))


FOLDERS = {
    "a leaf's last name": ({"optimizer.learning_rate": 1e-3, "seed": 2}, "0-learning_rate=0.001,seed=2"),
    "longer where two are alike": ({"a.b.size": 1, "a.c.size": 2}, "0-b.size=1,c.size=2"),
    "a leaf inside a tuple": ({TOP_K: 2}, "0-top_k=2"),
    "two of those": ({"p[0].size": 1, "p[1].size": 2}, "0-p_0_.size=1,p_1_.size=2"),
    "slashes and spaces": ({"data.path": "/a b/../c"}, "0-path=_a_b_.._c"),
    "other letters": ({"sample_prompt": "déjà vu"}, "0-sample_prompt=d_j_vu"),
    "six digits": ({"rate": 1 / 3}, "0-rate=0.333333"),
    "a long value": ({"path": "x" * 300}, "0-path=" + "x" * 24),
    "many leaves": ({f"leaf{i}": i for i in range(90)}, "0-" + ",".join(f"leaf{i}={i}" for i in range(9)) + ",leaf9"),
    "the argument": ({"arg": "mixer=mamba,ffn=moe"}, "0-arg=mixer=mamba,ffn=moe"),
    "a tuple": ({"dims": (1, 2)}, "0-dims=_1,_2"),
    "nothing": ({}, "0-as-it-is"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_is_named_after_what_its_point_sets(case):
    overrides, expected = FOLDERS[case]
    assert sweep.Point(0, overrides).folder == expected


def test_points_whose_values_look_alike_have_folders_of_their_own(tmp_path):
    alike = points({"path": "y" * 40 + "1"}, {"path": "y" * 40 + "2"}, {"path": "a/b"}, {"path": "a b"})
    for point in alike:
        (tmp_path / point.folder).mkdir()
    assert len(list(tmp_path.iterdir())) == 4
    assert all(pathlib.Path(point.folder).name == point.folder for point in alike)


def test_what_varies_is_what_is_not_the_same_in_all_points():
    assert sweep.varied(points({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1})) == ["b"]
    assert sweep.varied(points({"a": 1, "b": 2})) == ["a", "b"]


REFUSED = {
    "no sweep": ("", {}, "defines no sweep: --mode=sweep runs"),
    "two": ("def sweep(): return []\ndef get_hyper(hyper): return []", {}, "defines both sweep and get_hyper"),
    "no points": ("def sweep(): return []", {}, "sweep gives no points"),
    "nothing returned": ("def sweep(): pass", {}, "TypeError"),
    "an error": ("def sweep():\n    return [{'seed': 1 / 0}]", {}, "config.py, line 10: ZeroDivisionError"),
    "a parameter": ("def sweep(submit): pass", {}, "parameter 'submit' of sweep must be one of add, arg, hyper"),
    "no mapping": ("def sweep(): return [1]", {}, "point 0 is 1, and must be a mapping"),
    "an argument that is no text": ("def sweep(): return [{'arg': 3}]", {}, "point 0: arg=3 must be of type str"),
    "the same twice": ("def sweep(): return [{'seed': 1}, {}, {'seed': 1}]", {}, "points 0 and 2 are the same"),
    "the argument twice": ("def sweep(add): add('mlp', arg='hybrid')", {}, "point 0 sets both ('mlp',) and arg"),
    "a leaf twice": ("def sweep(): return [{'config.seed': 1, 'seed': 2}]", {}, "point 0 sets both seed and seed"),
    "a block and a leaf of it": (
        "def sweep(): return [{'model.layers.pattern': (), 'model.layers.pattern[0].dropout': 0.5}]",
        {},
        "point 0 sets both model.layers.pattern and model.layers.pattern[0].dropout: drop one",
    ),
    "a leaf and the block it is of": (
        "def sweep(): return [{'model.layers.pattern[0].dropout': 0.5, 'model.layers.pattern': ()}]",
        {},
        "point 0 sets both model.layers.pattern[0].dropout and model.layers.pattern: drop one",
    ),
    "lengths": (
        "def get_hyper(hyper):\n    return hyper.zipit([hyper.sweep('a', [1]), hyper.sweep('b', [1, 2])])",
        {},
        "line 10: ValueError: zipit takes sweeps of one length",
    ),
    "an endless one": ("def sweep(): return hyper.fixed('seed', 1)", {}, "seed has no end"),
    "a typo": ("def sweep(): return [{}, {'optimizer.lr': 1}]", {}, "point 1 (optimizer.lr=1): optimizer.lr is no"),
    "a typo in a tuple": (
        "def sweep(): return [{'model.layers.pattern[0].sublayers[0].hiden_dim': 1}]",
        {},
        "hiden_dim is no field of the config; did you mean 'hidden_dim'?",
    ),
    "another block": ("def sweep(): return [{'model.layers.pattern[3]': 1}]", {}, "pattern[3] does not exist"),
    "a type": ("def sweep(): return [{'seed': 'x'}]", {}, "point 0 (seed='x'): seed='x' must be of type int"),
    "a rule": ("def sweep(): return [{'seed': 1}, {'seed': -1}]", {}, "point 1 (seed=-1): seed=-1 must be at least"),
    "an argument": ("def sweep(): return [{'arg': 'big'}]", {}, "point 0 (arg='big'): "),
    "both": ("def sweep(): return [{'seed': 1}]", {"seed": 2}, "seed is set by the sweep, --config.seed by the"),
    "a part of both": (
        "def sweep(): return [{'model.layers.pattern': ()}]",
        {"model.layers.pattern[0].dropout": 0.5},
        "model.layers.pattern is set by the sweep, --config.model.layers.pattern[0].dropout",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sweep_that_cannot_be_run_is_refused(file, case):
    text, overrides, message = REFUSED[case]
    given = file(text)
    with pytest.raises(config.ConfigError) as caught:
        sweep.configs(given, overrides, sweep.read(given))
    assert message in command_line.one_line(caught.value)


def test_leaves_whose_names_begin_alike_are_apart(file):
    given = file("def sweep(): return [{'eval_every_steps': 2}]")
    (cfg,) = sweep.configs(given, {"eval_batches": 3}, sweep.read(given))
    assert (cfg.eval_every_steps, cfg.eval_batches) == (2, 3)
