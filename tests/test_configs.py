"""Every file in configs/: its header tells what to expect, and every leaf can be set from the command line."""

import ast
import dataclasses
import json
import re
import runpy
import typing

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from arch import config
from arch.data import tokenized
from arch.train import command_line, experiment
from tests.commands import ROOT

# ml_collections loads a config file as Python 3.12 would rather not have it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FILES = sorted((ROOT / "configs").glob("*.py"))
EDGES = {file.stem: file for file in [*FILES, ROOT / "tests" / "tiny_config.py"]}

APART = re.compile(
    r"^resume$|^upcycle|^replay$|\.group$|tokenizer\.\w+$|\.mixture$|_(steps|tokens|examples|epochs|percent)$"
    r"|^data\.(kind|pair_field)$|^profile\.steps$|^optimizer\.moments$|\.(matmul|chunk_tokens|round_factor|schedule)$"
)
"""Leaves whose rules want other leaves changed with them, or left alone."""


def plain(edge):
    """A ConfigDict as nested dicts."""
    if isinstance(edge, ConfigDict):
        return {key: plain(leaf) for key, leaf in edge.items()}
    return tuple(map(plain, edge)) if isinstance(edge, tuple) else edge


def get_config(name, *arg):
    return runpy.run_path(str(EDGES[name]))["get_config"](*arg)


def leaves(tree, hint=experiment.Config, path=""):
    """(path, value, annotation) of each leaf of a frozen config."""
    if isinstance(tree, config.Config):
        hints = typing.get_type_hints(type(tree))
        for key in (field.name for field in dataclasses.fields(tree)):
            yield from leaves(getattr(tree, key), hints[key], f"{path}.{key}" if path else key)
    elif isinstance(tree, tuple) and tree and isinstance(tree[0], config.Config):
        for i, entry in enumerate(tree):
            yield from leaves(entry, typing.get_args(hint)[0], f"{path}[{i}]")
    else:
        yield path, tree, hint


def at(tree, path):
    """The leaf of nested dicts and tuples at a path like `model.layers.pattern[0].norm.kind`."""
    for key in re.findall(r"\w+", path):
        tree = tree[int(key) if key.isdigit() else key]
    return tree


def another(value, hint):
    """A value of the leaf's type that is not the one it has."""
    if typing.get_origin(hint) is typing.Literal:
        return next(word for word in typing.get_args(hint) if word != value)
    if typing.get_origin(hint) is tuple:
        block = {"sublayers": ({"name": "mlp", "hidden_dim": 3},)}
        source = config.to_dict(tokenized.Part(path="text"))
        entries = {int: 3, str: "text", tuple[str, float]: ("text", 0.5), tokenized.Part: source}
        return (*value, entries.get(typing.get_args(hint)[0], block))
    if isinstance(value, bool):
        return not value
    return {int: lambda: abs(value) * 2 or 1, float: lambda: value / 2 or 0.5, str: lambda: value + "x"}[type(value)]()


def parsed(name, *overrides):
    """What config_flags makes of a command line."""
    argv = ["run.py", f"--config={EDGES[name]}", *(f"--config.{path}={value}" for path, value in overrides)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    command_line.parse(values, argv)
    return plain(holder.value)


@pytest.mark.parametrize("name", EDGES)
def test_a_config_has_no_leaf_that_cannot_be_overridden(name):
    def walk(node, path):
        if isinstance(node, dict):
            return [bad for key, leaf in node.items() for bad in walk(leaf, f"{path}.{key}")]
        if isinstance(node, tuple):
            return [bad for i, leaf in enumerate(node) for bad in walk(leaf, f"{path}[{i}]")]
        return [] if isinstance(node, (bool, int, float, str)) else [f"{path}={node!r}"]

    edge = get_config(name)
    assert isinstance(edge, ConfigDict)
    assert walk(plain(edge), "") == []


@pytest.mark.parametrize("name", EDGES)
def test_a_config_spells_every_leaf_out(name):
    cfg = experiment.from_dict(plain(get_config(name)))
    assert config.to_dict(cfg) == plain(get_config(name))


@pytest.mark.parametrize("name", EDGES)
def test_a_config_survives_json(name):
    cfg = experiment.from_dict(plain(get_config(name)))
    assert experiment.from_dict(json.loads(json.dumps(config.to_dict(cfg)))) == cfg


@pytest.mark.parametrize("name", EDGES)
def test_every_leaf_is_set_from_the_command_line(name):
    cfg = experiment.from_dict(plain(get_config(name)))
    new = {path: another(value, hint) for path, value, hint in leaves(cfg)}
    edge = parsed(name, *new.items())
    assert {path: at(edge, path) for path in new} == new
    assert len(new) > 50
    together = {path: value for path, value in new.items() if not APART.search(path)}
    frozen = freeze(name, together)
    assert [path for path, value in together.items() if not is_same(at(frozen, path), value)] == []
    for path in new.keys() - together:
        try:
            assert at(freeze(name, {path: new[path]}), path) == new[path]
        except config.ConfigError as error:  # it arrived, and a rule between fields spoke of it
            assert path.rpartition(".")[2] in str(error)


def freeze(name, values):
    """The frozen config, as a dict, of a config whose leaves at these paths are replaced."""
    tree = plain(get_config(name))
    for path, value in values.items():
        parent, _, field = path.rpartition(".")
        at(tree, parent)[field] = value
    return config.to_dict(experiment.from_dict(tree))


def is_same(frozen, value):
    """Equality, but for blocks given without their defaults."""
    return frozen == value or isinstance(value, tuple) and isinstance(value[-1], dict) and len(frozen) == len(value)


@pytest.mark.parametrize("name", EDGES)
def test_an_unknown_option_of_a_config_is_refused(name):
    with pytest.raises(config.ConfigError, match="option 'no_such_option' .* is unknown"):
        get_config(name, "no_such_option=1")


@pytest.mark.parametrize("name", EDGES)
def test_an_empty_argument_is_no_argument(name):
    assert plain(get_config(name, "")) == plain(get_config(name))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_header_says_command_hardware_time_and_result(file):
    header = ast.get_docstring(ast.parse(file.read_text())) or ""
    wanted = {
        "command": rf"run\.py --config=configs/{file.stem}\.py",
        "hardware": r"\b(CPU|GPU|TPU|H100|H200|cores)\b",
        "time": r"\d\s*(s|seconds|min|minutes|h|hours)\b",
        "number": r"\d+\.\d+",
        "of what": r"bits per byte|accuracy|perplexity|loss",
    }
    assert [what for what, pattern in wanted.items() if not re.search(pattern, header)] == []
