"""The mesh that the search chooses is as good as the best of a whole list, each compiled for TPUs; as it was kept."""

import json
import pathlib

import pytest

from arch.plan import search
from benchmarks import plan_search

ROOT = pathlib.Path(__file__).parents[1]
KEPT = json.loads((ROOT / "benchmarks" / "results" / "plan_search.json").read_text())
EACH = pytest.mark.parametrize("row", KEPT.values(), ids=KEPT)


def rate(row, name):
    """Tokens a second, by the roofline of the compiled program; 0 of one that does not fit."""
    return row["rows"][name]["tokens_per_second"] if row["rows"][name]["fits"] else 0.0


@EACH
def test_what_is_chosen_is_as_fast_as_the_best_of_all(row):
    best = max(rate(row, name) for name in row["rows"])
    assert rate(row, row["best"]) == best > 0
    assert row["ratio"] == round(rate(row, row["chosen"]) / best, 4) >= 1 / search.NEAR


@EACH
def test_the_list_is_longer_than_what_is_tried_and_the_choice_among_that(row):
    assert row["chosen"] in row["tried"] and set(row["tried"]) < set(row["rows"])
    assert sum(row["rows"][name]["fits"] for name in row["tried"]) <= row["compiles"] == plan_search.COMPILES


def test_the_page_on_planning_tells_all_that_are_kept():
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    assert f"\n{plan_search.table(KEPT)}\n" in page
