"""What became of a sweep's points: records, and a table that is a function of them."""

import csv
import json
import threading

import pytest

from arch.train import results

EVALUATIONS = [(2, 5.0, 0.1), (4, 3.0, 0.4), (6, 4.0, 0.5)]


def record(index, **fields):
    overrides = {"seed": index, "data.path": "a\tb"}
    return results.Result(index, f"{index}-seed={index}", overrides, {"batch_size": 8} | overrides, **fields)


def write_metrics(workdir, index, evaluations=EVALUATIONS):
    folder = workdir / f"{index}-seed={index}"
    folder.mkdir(exist_ok=True)
    lines = [{"step": 7, "train/loss": 1.0}]
    for step, loss, accuracy in evaluations:
        lines.append({"step": step, "eval/tail/loss": 0.0, "eval/valid/loss": loss, "eval/valid/accuracy": accuracy})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "ev')


def table(workdir):
    """Both tables: the JSON's rows, and the lines of the tab-separated one."""
    with open(workdir / "results.tsv", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    return json.loads((workdir / "results.json").read_text()), lines


def test_a_record_tells_of_the_last_and_the_best_evaluation(tmp_path):
    write_metrics(tmp_path, 3)
    results.write(tmp_path, record(3, status="finished"))
    (read,) = results.read(tmp_path)
    assert read.last == {"eval/tail/loss": 0.0, "eval/valid/loss": 4.0, "eval/valid/accuracy": 0.5}
    assert (read.best["step"], read.best["eval/valid/loss"], read.step) == (4, 3.0, 7)


def test_a_loss_that_was_no_number_is_never_the_best(tmp_path):
    write_metrics(tmp_path, 3, [(2, None, 0.1), (4, 8.0, 0.1)])
    results.write(tmp_path, record(3))
    assert results.read(tmp_path)[0].best["step"] == 4


def test_a_checkpoint_beyond_the_metrics_counts_as_a_step(tmp_path):
    (tmp_path / "3-seed=3" / "checkpoints" / "12").mkdir(parents=True)
    (tmp_path / "3-seed=3" / "checkpoints" / "99.orbax-checkpoint-tmp").mkdir()
    results.write(tmp_path, record(3))
    assert results.read(tmp_path)[0].step == 12


def test_the_table_has_a_line_a_point_by_index(tmp_path):
    for index in (10, 2):
        write_metrics(tmp_path, index)
        results.write(tmp_path, record(index, status="finished", seconds=1.5))
    results.write(tmp_path, record(3, status="failed", error="two\nlines"))
    rows, lines = table(tmp_path)
    assert [row["index"] for row in rows] == [2, 3, 10]
    assert [line["seed"] for line in lines] == ["2", "3", "10"]
    assert lines[0] == {
        "index": "2", "status": "finished", "seed": "2", "data.path": "a b", "step": "7", "eval/tail/loss": "0.0",
        "eval/valid/loss": "4.0", "eval/valid/accuracy": "0.5", "best/step": "4", "best/tail/loss": "0.0",
        "best/valid/loss": "3.0", "best/valid/accuracy": "0.4", "seconds": "1.5", "folder": "2-seed=2", "error": "",
    }  # fmt: skip
    assert (lines[1]["status"], lines[1]["eval/valid/loss"], lines[1]["error"]) == ("failed", "", "two lines")


def test_the_table_is_a_function_of_the_records(tmp_path):
    for index in range(3):
        results.write(tmp_path, record(index))
    before = table(tmp_path)
    for name in ("results.json", "results.tsv"):
        (tmp_path / name).unlink()
    results.update_table(tmp_path)
    assert table(tmp_path) == before


def test_a_record_written_while_the_table_is_written_is_not_lost(tmp_path, monkeypatch):
    whole, others = results.provenance.write_whole, [record(1)]

    def write(file, text):
        if file.name == "results.json" and others:  # another process's point ends now, and its table is overwritten
            other = others.pop()
            (tmp_path / other.folder).mkdir()
            whole(tmp_path / other.folder / results.FILE, json.dumps(vars(other)))
        whole(file, text)

    monkeypatch.setattr(results.provenance, "write_whole", write)
    results.write(tmp_path, record(0))
    assert [row["index"] for row in table(tmp_path)[0]] == [0, 1]


def _member(workdir, index):
    for status in ("running", "finished"):
        results.write(workdir, record(index, status=status))


def test_members_of_a_job_array_write_one_table_together(tmp_path):
    members = [threading.Thread(target=_member, args=(tmp_path, index)) for index in range(8)]
    for member in members:
        member.start()
    for member in members:
        member.join(60)
    rows, lines = table(tmp_path)
    assert [(row["index"], row["status"]) for row in rows] == [(index, "finished") for index in range(8)]
    assert len(lines) == 8 and not list(tmp_path.rglob("*.tmp"))


def test_a_record_that_is_none_is_refused_by_name(tmp_path):
    results.write(tmp_path, record(0))
    file = tmp_path / "0-seed=0" / "result.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="result.json is no record of a sweep's point"):
        results.read(tmp_path)
