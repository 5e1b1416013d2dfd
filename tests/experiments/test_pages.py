"""Pages of claims say what their results say, and are written by `run.py --mode=report` alone."""

import json
import pathlib
import xml.etree.ElementTree

import pytest

from arch import config
from arch.train import measured, results
from experiments import figure, page, record, report
from experiments.claim import SIZES, Claim, Expectation, spread
from tests.commands import ROOT

NAMES = report.names()
READ = {name: report.read(report.HERE / name) for name in NAMES}
MEASURED = [(name, size) for name, (_, found, _) in READ.items() for size in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_and_its_figures_are_those_of_the_results(name):
    for path, text in report.pages(report.HERE / name, *READ[name]).items():
        assert path.read_text() == text, f"{path} and its data have parted: run.py --mode=report writes it"


def test_the_table_of_all_claims_is_that_of_the_results():
    assert (report.HERE / "README.md").read_text() == report.leaderboard()


@pytest.mark.parametrize("name, size", MEASURED)
def test_a_page_of_other_results_is_told_apart(name, size):
    def other(value):
        if isinstance(value, dict):
            return {key: other(each) for key, each in value.items()}
        if isinstance(value, list):
            return list(map(other, value))
        measured = isinstance(value, float) or isinstance(value, int) and value > 10_000  # lesser ones are settings
        return type(value)(value / 2) if measured else value

    claim, found, paper = READ[name]
    changed = found | {size: found[size] | {"rows": other(found[size]["rows"])}}
    page_of = lambda results: report.pages(report.HERE / name, claim, results, paper)
    assert page_of(changed) != page_of(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_is_whole(name):
    claim, found, _ = READ[name]
    folder = report.HERE / name
    assert claim.sizes.keys() <= SIZES.keys() and found.keys() <= claim.sizes.keys()
    assert claim.remarks.keys() <= claim.sizes.keys()
    assert json.loads((folder / "paper.json").read_text())["source"]
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} <= {
        *("config.py", "claim.py", "paper.json", "results", "README.md"),
    }
    kept = {path.name for path in (folder / "results").glob("*")}
    assert kept <= {f"{size}.{kind}" for size in found for kind in ("json", "svg")}


@pytest.mark.parametrize("name, size", MEASURED)
def test_results_say_whence_they_are(name, size):
    found = READ[name][1][size]
    assert {"date", "device", "versions", "commits", "seconds", "rows"} <= found.keys() and found["rows"]
    assert all(len(commit) == 40 for commit in found["commits"])


# A claim of its own: two points that are measured, from the sweep's records to the page.

CONFIG = """
from arch import config, hyper

@config.frozen
class Config(config.Config):
    number: config.PositiveInt

def get_config(arg=""):
    return config.config_dict(Config, dict(number=1))

def measure(cfg):
    return [dict(number=cfg.number, square=cfg.number**2)]

def sweep():
    return hyper.sweep("number", [2, 3])
"""
CLAIM = """
from experiments.claim import Claim, Expectation
from experiments.figure import Line, Panel

CLAIM = Claim(
    title="Squares",
    claim="They grow.",
    setup="None.",
    sizes=dict(small="As it is.", paper="The same."),
    table=lambda rows, paper: [{"number": str(row["number"]), "square": str(row["square"])} for row in rows],
    figure=lambda rows, paper: [Panel("Squares", "number", [Line("", [(r["number"], r["square"]) for r in rows])])],
    caption="Squares.",
    expect=lambda rows, paper: [Expectation("they grow", rows[0]["square"] < rows[1]["square"], "they do")],
)
"""


@pytest.fixture
def squares(tmp_path):
    folder = tmp_path / "squares"
    folder.mkdir()
    for name, text in {"config.py": CONFIG, "claim.py": CLAIM, "paper.json": '{"source": "none", "rows": []}'}.items():
        (folder / name).write_text(text)
    return folder


def swept(workdir, status="finished"):
    for index, number in enumerate((2, 3)):
        point = results.Result(index, f"{index}-number={number}", {"number": number}, {}, status=status, seconds=1.6)
        folder = workdir / point.folder
        folder.mkdir(parents=True)
        measure = lambda cfg: [dict(number=cfg, square=cfg**2)]
        (folder / measured.FILE).write_text(json.dumps(measure(number)))
        device = dict(kind="abacus", count=1, cpus=7)
        run = dict(date="2026-11-22T09:00", device=device, platform="here", python="3", packages={"jax": "0"})
        (folder / "versions.json").write_text(json.dumps([run | dict(source=dict(commit="c" * 40))]))
        results.write(workdir, point)


def test_a_claim_that_has_not_run_has_a_page_that_says_so(squares):
    assert report.report(f"{squares}/config.py", "").endswith("README.md: not run yet")
    assert (squares / "README.md").read_text().count("Not run yet.") == 2 and not (squares / "results").exists()


def test_a_finished_sweep_becomes_results_a_figure_and_a_page(squares, tmp_path):
    swept(tmp_path / "run")
    assert report.report(f"{squares}/config.py:small", str(tmp_path / "run")).endswith("README.md: ordering reproduced")
    found = json.loads((squares / "results" / "small.json").read_text())
    assert found["rows"] == [dict(number=2, square=4), dict(number=3, square=9)] and found["seconds"] == [2, 2]
    assert (found["device"], found["commits"], found["date"]) == ("1 abacus, 7 processors", ["c" * 40], "2026-11-22")
    text = (squares / "README.md").read_text()
    assert "| number | square |\n|---|---|\n| 2 | 4 |\n| 3 | 9 |\n" in text and "- Holds: they grow (they do)." in text
    svg = squares / "results" / "small.svg"
    before = svg.read_text(), text
    svg.unlink()
    report.report(f"{squares}/config.py:small", "")
    assert (svg.read_text(), (squares / "README.md").read_text()) == before


@pytest.mark.parametrize("given, workdir, message", [
    ("config.py:huge", "", "size='huge' must be one of small, paper"),
    ("config.py:small,mixer=x", "", "option 'mixer' .* is unknown"),
    ("config.py", "nothing", "holds no point of a sweep"),
    ("config.py", "stopped", "point 0 of .* is stopped, and must be finished"),
])  # fmt: skip
def test_what_cannot_be_reported_is_refused(squares, tmp_path, given, workdir, message):
    swept(tmp_path / "stopped", "stopped")
    with pytest.raises(ValueError, match=message):
        report.report(f"{squares}/{given}", workdir and str(tmp_path / workdir))
    assert not (squares / "README.md").exists()


def test_a_folder_without_a_claim_is_refused():
    with pytest.raises(config.ConfigError, match="there is no file .*claim.py"):
        report.report(str(ROOT / "configs" / "demo.py"), "")


# Verdicts, cells and charts.


@pytest.mark.parametrize("holds, verdict", [
    ([True, True], "reproduced"), ([True, False], "reproduced in part: 1 of 2 expectations hold"),
    ([False, False], "not reproduced"),
])  # fmt: skip
def test_a_verdict_follows_from_what_holds(holds, verdict):
    claim = Claim(title="", claim="", setup="", sizes={}, table=list, verdict="reproduced",
                  expect=lambda rows, paper: [Expectation("", each, "") for each in holds])  # fmt: skip
    assert claim.judged([], []) == verdict


def test_a_cell_of_several_seeds_has_their_mean_and_ends():
    assert spread([1.0, 2.0, 6.0], ".1f") == "3.0 (1.0 to 6.0)" and spread([2], ".1f") == "2.0"


def test_a_line_of_a_table_may_lack_columns():
    assert page.table([{"a": "1"}, {"b": "2"}]) == "| a | b |\n|---|---|\n| 1 |  |\n|  | 2 |"


def test_a_chart_puts_numbers_where_its_axes_say():
    line = figure.Line("a & b", [(1, 10), (10, 100), (100, 1000)])
    panel = figure.Panel("Title", "x", [line], log_x=True, log_y=True)
    root = xml.etree.ElementTree.fromstring(figure.draw([panel]))
    shapes = {tag: [each for each in root if each.tag.endswith(tag)] for tag in ("polyline", "circle", "text")}
    places = [tuple(map(float, point.split(","))) for point in shapes["polyline"][0].get("points").split()]
    left, top = figure.LEFT, figure.TOP
    assert places == [(left + figure.WIDTH * i / 2, top + figure.HEIGHT * (1 - i / 2)) for i in range(3)]
    assert {"Title", "x", "a & b", "10", "100", "1k"} <= {each.text for each in shapes["text"]}


@pytest.mark.parametrize("axis, ticks", [
    (figure.Axis(0.0, 1.0, False, 0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
    (figure.Axis(3.0, 17.0, False, 0, 1), ["5", "10", "15"]),
    (figure.Axis(1024, 131072, True, 0, 1), ["1Ki", "4Ki", "16Ki", "64Ki"]),
    (figure.Axis(1e-3, 2e2, True, 0, 1), ["0.001", "0.01", "0.1", "1", "10", "100"]),
])  # fmt: skip
def test_ticks_are_round(axis, ticks):
    assert [figure.label(value) for value in axis.ticks()] == ticks


def test_a_point_knows_its_options():
    point = record.Point(pathlib.Path(), results.Result(0, "0", {"arg": "small,mixer=mamba", "model.width": 3}, {}))
    assert point.options == {"size": "small", "mixer": "mamba", "width": 3}
