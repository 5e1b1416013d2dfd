"""Pictures and tables of a mixture of experts have the values that an eye expects."""

import json

import numpy as np

from arch.train import load_history, specialisation
from arch.train.load_history import LoadHistory

BLUE, WHITE, RED, GREY = [0, 0, 255], [255, 255, 255], [255, 0, 0], [128, 128, 128]


def logged(step, first, second):
    """A line of the log, of two layers of two experts, with the first expert's loads."""
    loads = {"0": (first, 1 - first), "1": (second, 1 - second)}
    scalars = {f"moe/layers/{layer}/load/{i}": x for layer, two in loads.items() for i, x in enumerate(two)}
    return {"step": step, "train/loss": 2.0, "moe/layers/0/load_max": 0.5} | scalars


def test_the_history_has_an_expert_a_line_and_time_to_the_right(tmp_path):
    history = LoadHistory(tmp_path / "absent.jsonl")
    history.add(logged(1, 0.5, 0.0))
    history.add(logged(2, 1.0, 0.5))
    image = history.image()
    lines = [image[i, [0, -1]].tolist() for i in (0, 6, 12, 14, 20)]
    assert image.shape == (4 * 6 + 2, 512, 3)
    assert lines == [[WHITE, RED], [WHITE, BLUE], [GREY, GREY], [BLUE, WHITE], [RED, WHITE]]


def test_a_resumed_run_shows_what_was_logged_before(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [logged(1, 0.5, 0.0), {"step": 1, "eval/valid/loss": 2.0}, logged(2, 1.0, 0.5)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fresh = LoadHistory(tmp_path / "absent.jsonl")
    fresh.add(lines[0])
    fresh.add(lines[2])
    np.testing.assert_array_equal(LoadHistory(file).image(), fresh.image())


def test_a_long_history_keeps_its_ends_and_its_order(tmp_path):
    history, number = LoadHistory(tmp_path / "absent.jsonl"), 5 * load_history.MAX_COLUMNS
    for step in range(number):
        history.add(logged(step, step / number, 0.5))
    blue = history.image()[0, :, 2].astype(int) - history.image()[0, :, 0]
    assert (np.diff(blue) <= 0).all()
    assert blue[0] > 250 and blue[-1] < -250


def test_a_model_without_experts_has_no_history(tmp_path):
    history = LoadHistory(tmp_path / "absent.jsonl")
    history.add({"step": 1, "train/loss": 2.0})
    assert history.image() is None


WATCHED = np.array([2, 5, 7], np.int32)
SUMS = {
    "layers/10/moe/coactivation": np.array([[4.0, 1, 0], [1, 2, 0], [0, 0, 0]]),
    "layers/10/moe/watched_count": np.array([4.0, 2, 0]),
    "layers/10/moe/watched_load": np.array([[3.0, 1, 0], [0, 1, 0], [0, 0, 0]]),
}
SUMS |= {name.replace("10/moe", "9/moe_1"): table for name, table in SUMS.items()}


def test_the_tables_say_what_each_expert_is_for():
    found = specialisation.tables(SUMS, WATCHED, "abcdefgh".__getitem__)
    assert list(found) == ["layers/9/moe_1", "layers/10"]
    assert found["layers/10"] == {
        "coactivation": [[4, 1, 0], [1, 2, 0], [0, 0, 0]],
        "experts": [
            {"share": 4 / 6, "also": [[1, 1 / 4]], "tokens": [["c", 3 / 4, 3 / 4]]},
            {"share": 2 / 6, "also": [[0, 1 / 2]], "tokens": [["c", 1 / 2, 1 / 4], ["f", 1 / 2, 1 / 2]]},
            {"share": 0, "also": [], "tokens": []},
        ],
    }


def test_the_texts_hold_the_same():
    layer = specialisation.tables(SUMS, WATCHED, ["", "", "a|b", "", "", "_"].__getitem__)["layers/10"]
    lines = specialisation.markdown(layer).splitlines()[2:]
    assert lines[1] == r"| 1 | 33.3% | 0 (50%) | 'a\|b' (50.0%; 25%), '\_' (50.0%; 50%) |"
    assert lines[2] == "| 2 | 0.0% | none | none |"
    assert specialisation.coactivation(layer).splitlines()[2:] == [
        "| 0 | 100% | 25% | 0% |", "| 1 | 50% | 100% | 0% |", "| 2 | 0% | 0% | 0% |"
    ]  # fmt: skip


def test_the_commonest_ids_are_watched(monkeypatch):
    monkeypatch.setattr(specialisation, "WATCHED", 2)
    assert specialisation.commonest(np.array([9, 4, 9, 1, 4, 9], np.uint16)).tolist() == [4, 9]
    assert specialisation.commonest(np.array([3], np.uint16)).tolist() == [3]
