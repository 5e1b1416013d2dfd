"""The ratios that are judged, from made-up rows, and the tables around them."""

import importlib

import pytest

from benchmarks.gpu import goals, report
from benchmarks.gpu.contest import PASSES, Contest
from benchmarks.gpu.goals import BOTH, GOALS, Rows, judged
from benchmarks.gpu.names import PARTS

TIMED = report.TIMED
BY_NAME = {goal.name: goal for goal in GOALS}


def rows_of(**parts):
    rows = Rows.__new__(Rows)
    rows.parts = {part: {"pieces": {"a piece": {"rows": found}}} for part, found in parts.items()}
    return rows


def contests(part):
    return [make() for make in importlib.import_module(f"benchmarks.gpu.{part}").PIECES.values()]


@pytest.fixture(scope="module")
def every():
    """A row for each side and pass of each contest there is, each of 2 ms."""
    found = {part: [] for part in TIMED}
    for part in TIMED:
        for contest in contests(part):
            assert isinstance(contest, Contest)
            for side, what in ((side, what) for side in contest.sides for what in contest.passes):
                row = dict(contest=contest.name, **contest.about, side=side, what=what)
                late = contest.without.get((side, what))
                timed = {"missing": late} if late else {"median_ms": 2.0 if what == "forward" else 6.0, "tb_s": 3.0}
                found[part].append(row | timed)
    step = dict(parameters=10**9, median_ms=2.0, tokens_per_second=9, mfu=0.5, length=4096)
    found["training"] = [step | {"model": name} for name in ("dense", "moe", "mamba2")]
    return rows_of(**found)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_each_goal_is_about_sides_that_there_are(goal, every):
    value, stands = judged(goal, every)
    assert value and stands in ("aim", "floor", "below", "told")


def test_names_of_goals_differ():
    assert len(BY_NAME) == len(GOALS)
    assert all(0 < goal.floor <= goal.aim for goal in GOALS if goal.floor or goal.aim)


def side(name, **fields):
    return dict(contest="causal 8k", side=name, **fields)


@pytest.mark.parametrize(("milliseconds", "stands"), [(1.0, "aim"), (1.2, "floor"), (1.3, "below")])
def test_a_ratio_is_the_others_time_over_ours(milliseconds, stands):
    goal = BY_NAME["causal 8k: own / cudnn, forward"]
    rows = rows_of(
        dense_attention=[
            side("own", what="forward", median_ms=milliseconds),
            side("own", what=BOTH, median_ms=99.0),
            side("cudnn", what="forward", median_ms=1.0),
        ]
    )
    assert judged(goal, rows) == (f"{1 / milliseconds:.3g}", stands)


def test_the_share_of_the_density_bound():
    row = lambda contest, forward, both, **more: [
        dict(contest=contest, side="own", what="forward", median_ms=forward, **more),
        dict(contest=contest, side="own", what=BOTH, median_ms=both, **more),
    ]
    found = rows_of(sparse_attention=row("bigbird", 2.0, 6.0, density=0.1) + row("all pairs", 16.0, 44.0))
    assert judged(BY_NAME["bigbird: share of the density bound, forward"], found) == ("0.8", "floor")
    assert judged(BY_NAME["bigbird: share of the density bound, backward"], found) == ("0.7", "floor")


def test_a_ratio_without_its_peer_says_why():
    goal = BY_NAME["causal 8k: own / tokamax, forward+backward"]
    assert judged(goal, rows_of()) == ("", "not run: dense_attention, causal 8k tokamax forward+backward")
    rows = rows_of(dense_attention=[side("tokamax", what=BOTH, missing="tokamax is not installed")])
    assert judged(goal, rows) == ("", "causal 8k tokamax forward+backward: tokamax is not installed")


def test_nothing_kept_gives_no_table(tmp_path):
    assert report.text(Rows(tmp_path)).startswith("nothing is kept yet")


def test_the_tables_name_what_is_wrong_missing_and_failed(every):
    check = dict(operation="wkv", case="length=7", dtype="bfloat16", allowed=0.06)
    every.parts["correctness"] = {
        "pieces": {
            "a": {
                "rows": [
                    check | dict(result="y", max_error=0.03, right=True),
                    check | dict(result="d_key", max_error="nan", right=False),
                ]
            },
            "b": {"failed": "its process ended with -11"},
        }
    }
    text = report.text(every)
    for words in ("1 of 2", "nan > 0.06", "length=7: d_key", "its process ended with -11", "minutes to compile"):
        assert words in text
    assert text.index("Goals") > text.index("Correctness")


def test_speeds_and_decoding_have_tables():
    speed = [dict(model=model, length=length, tokens_per_second=1234) for model in ("a", "b") for length in (32, 8)]
    decode = dict(model="a", batch=2, side="own", tokens_per_second=56.7, first_token_ms=8.9)
    peer = dict(model="a", batch=2, side="transformers", missing="torch is not installed")
    text = report.text(rows_of(speed=[*speed, speed[0] | {"length": 128}], decoding=[decode, peer]))
    assert "  model  8      32     128\n  a      1,234  1,234  1,234\n  b      1,234  1,234\n" in text
    assert "  a      2      own           56.7                    8.9\n" in text
    assert "transformers  torch is not installed" in text


def test_a_table_is_text_or_markdown():
    table = report.Table("Title", ("side", "ms"), [("own|x", "1.5"), ("cudnn", "12.25")])
    assert table.text() == "Title\n  side   ms\n  own|x  1.5\n  cudnn  12.25"
    assert table.markdown() == "**Title**\n\n| side | ms |\n| --- | --- |\n| own/x | 1.5 |\n| cudnn | 12.25 |"


def test_every_part_has_pieces_and_a_limit_of_time():
    for part in PARTS:
        module = importlib.import_module(f"benchmarks.gpu.{part}")
        assert module.PIECES and 0 < module.SECONDS <= 300
        assert part in TIMED or part in ("correctness", "training", "speed", "decoding")
    assert PASSES == ("forward", goals.BOTH)
