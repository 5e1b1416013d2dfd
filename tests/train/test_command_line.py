"""What arch.train.command_line makes of a command line: the config, the overrides, or one line."""

import pathlib

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from arch import config
from arch.train import command_line

# ml_collections loads a config file as Python 3.12 would rather not have it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

FILE = """
import ml_collections


def get_config(arg="none"):
    blocks = (ml_collections.ConfigDict(dict(size=2)),)
    return ml_collections.ConfigDict(dict(arg=arg, steps=3, deep=dict(on=True, blocks=blocks)))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(FILE)
    return path


def parse(*arguments):
    """The config and the arguments that are no flags."""
    argv = ["run.py", *map(str, arguments)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    rest = command_line.parse(values, argv)
    return holder.value, rest[1:]


@pytest.mark.parametrize("form", ["--config={}", "-config {}"])
def test_the_file_is_given_behind_an_equals_sign_or_a_space(file, form):
    edge, rest = parse(*form.format(file).split(" "), "stray")
    assert edge.steps == 3 and rest == ["stray"]


def test_the_argument_is_all_behind_the_first_colon(file):
    assert parse(f"--config={file}")[0].arg == "none"
    assert parse(f"--config={file}:x=1,y=a:b")[0].arg == "x=1,y=a:b"


def test_overrides_reach_leaves_inside_tuples(file):
    edge, _ = parse(f"--config={file}", "--config.deep.blocks[0].size=7", "--noconfig.deep.on", "--config.steps", "5")
    assert (edge.deep.blocks[0].size, edge.deep.on, edge.steps) == (7, False, 5)


def test_of_a_flag_that_is_given_twice_the_last_counts(file, monkeypatch):
    twice = ("--config.steps=4", "--config.steps", "5")
    monkeypatch.setattr("sys.argv", ["run.py", *twice])
    assert command_line.override("steps") == "5"
    assert parse(f"--config={file}", *twice)[0].steps == 5
    assert parse(f"--config={file}:x", f"--config={file}:y")[0].arg == "y"


@pytest.mark.parametrize(
    ("override", "message"),
    {
        "--config.step=1": "step is no field of the config; did you mean 'steps'?",
        "--noconfig.deep.om": "deep.om is no field of the config; did you mean 'on'?",
        "--config.deep.zzz=1": "deep.zzz is no field of the config; deep has blocks, on",
        "--config.zzz=1": "zzz is no field of the config; the config has arg, deep, steps",
        "--config.deep.blocks[0].sise=1": "deep.blocks[0].sise is no field of the config; did you mean 'size'?",
        "--config.deep.blocks[2].size=1": "deep.blocks[2] does not exist: deep.blocks has 1 entries",
        "--config.steps[0]=1": "steps[0] does not exist: steps is no tuple",
        "--config.deep..on=1": "'deep..on' is no path",
    }.items(),
)
def test_a_path_that_does_not_exist_is_named_with_the_nearest(file, override, message):
    with pytest.raises(config.ConfigError) as caught:
        parse(f"--config={file}", override)
    assert message in str(caught.value)


def test_a_check_of_a_path_takes_leaves_and_nodes():
    edge = ConfigDict(dict(a=(dict(b=1),), c=dict(d=2)), convert_dict=False)
    for path in ("a", "a[0]", "a[0].b", "c.d"):
        command_line.check_path(edge, path)


def test_an_error_of_the_config_file_names_its_line(file):
    file.write_text("x = 1\ny = undefined\n")
    with pytest.raises(config.ConfigError, match=r"a\.py, line 2: NameError: name 'undefined' is not defined"):
        parse(f"--config={file}")


def test_a_config_that_breaks_a_rule_says_no_more_than_the_rule(file):
    file.write_text("from arch import config\ndef get_config():\n    raise config.ConfigError('size=0 is wrong')\n")
    with pytest.raises(config.ConfigError) as caught:
        parse(f"--config={file}")
    assert str(caught.value) == f"{file}: size=0 is wrong"


def test_an_error_ends_the_process_with_one_line(capsys):
    with pytest.raises(SystemExit) as caught, command_line.one_line_errors(ValueError):
        raise ValueError("a\n  b")
    assert caught.value.code == command_line.EXIT_STATUS == 2
    assert capsys.readouterr().err == "error: a b\n"


def test_an_error_of_another_kind_keeps_its_traceback():
    with pytest.raises(KeyError), command_line.one_line_errors(ValueError, OSError):
        raise KeyError("x")


def test_an_error_of_the_system_names_the_file():
    with pytest.raises(FileNotFoundError) as caught:
        pathlib.Path("absent.txt").read_text()
    assert command_line.one_line(caught.value) == "absent.txt: No such file or directory"


@pytest.mark.parametrize(
    ("override", "kind"),
    [("steps=abc", "int"), ("steps=1.5", "int"), ("deep.on=7", "bool"), ("deep.blocks[0].size=1,2", "int")],
)
def test_a_value_of_another_type_is_refused_with_the_field_s_type(file, override, kind):
    with pytest.raises(config.ConfigError) as caught:
        parse(f"--config={file}", f"--config.{override}")
    assert str(caught.value) == f"--config.{override} must be of type {kind}"
