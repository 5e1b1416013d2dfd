"""The notebooks run from top to bottom, show what they say, and are kept with what they show."""

import ast
import json
import re

import pytest

from notebooks import execute
from tests.commands import ROOT

NAMES = execute.names()
TINY = {
    "quickstart": dict(STEPS=2, WIDTH=8, BATCH=8, LENGTH=8),
    "sparse_patterns": dict(TOKENS=16, LENGTHS=[128, 256], LENGTH=512),
    "linear_attention": dict(DIM=8, TRIALS=1, FEATURES=[4, 8]),
    "mamba": dict(STEPS=2, WIDTH=8, ROWS=2, LENGTH=8),
    "moe_routing": dict(STEPS=2, WIDTH=8, HIDDEN=4, ROWS=2, LENGTH=8),
    "sharding_and_planning": dict(CHIPS=[8, 16], PRESETS={}),
}
LIMIT = 300_000
"""Bytes of a notebook."""


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def kinds(outputs):
    return [(output["output_type"], sorted(output.get("data", ()))) for output in outputs]


def test_there_is_a_story_of_each_family():
    assert NAMES == sorted(TINY)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_with_what_it_shows(name):
    notebook = execute.read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and source(notebook["cells"][0]).startswith("# ")
    assert (execute.HERE / f"{name}.ipynb").stat().st_size < LIMIT
    for number, cell in enumerate(code(notebook), start=1):
        assert cell["execution_count"] == number
        shows = re.search(r"^ *(print|chart|table|tiles)\(", source(cell), re.M)
        assert cell["outputs"] or not shows, source(cell)
        assert all(output["output_type"] in ("stream", "execute_result") for output in cell["outputs"])
    assert sum("image/svg+xml" in output.get("data", ()) for cell in code(notebook) for output in cell["outputs"])


def defined(module, name):
    """Whether a module of ours has a name, or a file of that name, by their text alone."""
    place = ROOT / module.replace(".", "/")
    if any(path.exists() for path in (place / f"{name}.py", place / name / "__init__.py")):
        return True
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return re.search(rf"^(def |class )?{name}\b", file.read_text(), re.M) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_imports_public_names_that_exist(name):
    tree = ast.parse("\n".join(map(source, code(execute.read(name)))))
    found = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "arch"
        for alias in node.names
    ]
    assert found and not [pair for pair in found if "._" in ".".join(pair) or not defined(*pair)]
    assert not defined("arch.train.loop", "absent")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_notebook_names_exists(name):
    text = "\n".join(source(cell) for cell in execute.read(name)["cells"])
    named = re.findall(r"(?:arch|configs|experiments|benchmarks|docs)/[\w/.-]*\w", text)
    assert named and not [path for path in named if not (ROOT / path).exists()]


def test_a_small_notebook_runs():
    namespace, outputs = execute.run(execute.read("sparse_patterns"), TINY["sparse_patterns"])
    assert list(map(kinds, outputs)) == [kinds(cell["outputs"]) for cell in code(execute.read("sparse_patterns"))]
    assert max(namespace["differences"].values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "sparse_patterns"])
def test_a_notebook_runs(name):
    _, outputs = execute.run(execute.read(name), TINY[name])
    assert list(map(kinds, outputs)) == [kinds(cell["outputs"]) for cell in code(execute.read(name))]


# The executor.


def notebook(*sources, tags=()):
    cells = [dict(cell_type="code", source=[text], metadata={}, outputs=[]) for text in sources]
    cells[0]["metadata"] = dict(tags=list(tags))
    return dict(cells=cells)


def test_a_cell_shows_what_it_prints_and_its_last_value():
    _, outputs = execute.run(notebook("a = 3\nprint(a)\na + 1", "a = None\na"))
    printed, value = outputs[0]
    assert (printed["text"], value["data"], outputs[1]) == (["3\n"], {"text/plain": ["4"]}, [])


def test_sizes_replace_those_of_the_cell_of_parameters():
    found = notebook("A = 1\nB = 2", "A + B", tags=["parameters"])
    assert execute.run(found, dict(A=5))[0]["A"] == 5
    with pytest.raises(ValueError, match=r"\['C'\] must be names that the cell of parameters sets"):
        execute.run(found, dict(C=5))


def test_the_outputs_that_are_kept_are_the_last_run_s():
    found = execute.filled(notebook("1", "x = 2"), [[dict(output_type="stream")], []])
    assert [(cell["execution_count"], len(cell["outputs"])) for cell in found["cells"]] == [(1, 1), (2, 0)]
    json.dumps(found)
