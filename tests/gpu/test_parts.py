"""How parts run: what is kept at once, skipped, run again and given up; and what is said where there is no GPU."""

import json
import os
import subprocess
import sys
import time
import types

import jax
import pytest

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import kept, names, part
from benchmarks.gpu.kept import Kept

LATER = time.time() + 1e6


class Piece:
    """Tells how often it ran, or fails."""

    def __init__(self, fails=False):
        self.fails, self.seeds = fails, []

    def run(self, *, seed):
        if self.fails:
            raise ValueError("no good")
        self.seeds.append(seed)
        return [{"times": len(self.seeds)}]


@pytest.fixture
def pieces():
    return {"one": Piece(), "bad": Piece(fails=True), "two": Piece()}


@pytest.fixture
def module(pieces):
    return types.SimpleNamespace(
        SECONDS=100, PIECES={name: lambda piece=piece: piece for name, piece in pieces.items()}
    )


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A file that stands for the code that pieces run."""
    monkeypatch.setattr(kept, "ROOT", tmp_path)
    monkeypatch.setattr(kept, "loaded", lambda: ["arch/code.py"])
    path = tmp_path / "arch/code.py"
    path.parent.mkdir()
    path.write_text("x = 1")
    return path


def test_each_piece_is_kept_and_one_that_fails_does_not_keep_the_others_from_their_turn(module, code, tmp_path):
    assert part.run(module, Kept("p", tmp_path), until=LATER)
    found = json.loads((tmp_path / "gpu-p.json").read_text())
    assert found["running"] == {}
    assert found["pieces"]["one"]["rows"] == found["pieces"]["two"]["rows"] == [{"times": 1}]
    assert found["pieces"]["bad"]["failed"] == "ValueError: no good"
    assert found["pieces"]["one"]["device"] == jax.devices()[0].device_kind
    assert list(found["codes"].values()) == [["arch/code.py"]]


def test_what_is_kept_is_not_run_again_until_the_code_changes_or_it_is_asked_for(module, pieces, code, tmp_path):
    run = lambda **how: part.run(module, Kept("p", tmp_path), until=LATER, **how)
    run()
    run()
    assert len(pieces["one"].seeds) == 1
    code.write_text("x = 2")
    run()
    assert len(pieces["one"].seeds) == len(set(pieces["one"].seeds)) == 2
    run(since="2000-01-01")
    assert len(pieces["one"].seeds) == 2
    run(since="2999-01-01")
    assert len(pieces["one"].seeds) == 3


def test_nothing_begins_when_time_is_over(module, pieces, code, tmp_path):
    assert not part.run(module, Kept("p", tmp_path), until=time.time() + part.LEAST_S / 2)
    assert pieces["one"].seeds == []


def test_the_code_of_a_piece_is_every_file_here_that_the_process_has_imported():
    files = kept.loaded()
    assert {"benchmarks/gpu/kept.py", "benchmarks/measure.py"} <= set(files)
    assert all((kept.ROOT / name).exists() for name in files)


def test_a_piece_in_which_the_process_dies_is_given_up_and_the_others_run(module, pieces, code, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "Kept", lambda name: Kept(name, tmp_path))
    pieces["one"].run = lambda seed: exec("raise SystemExit(7)")

    def start(name, until, since):
        try:
            part.run(module, Kept(name, tmp_path), until=until, since=since)
        except SystemExit as end:
            return end.code
        return 0

    assert driver.run_part("p", LATER, "", start) == ""
    found = Kept("p", tmp_path)
    assert found.pieces["one"]["failed"].startswith("its process ended with 7")
    assert found.pieces["two"]["rows"] and found.running == {}


def test_after_a_piece_that_breaks_the_device_another_process_goes_on(module, pieces, code, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "Kept", lambda name: Kept(name, tmp_path))
    answers, seen = iter([False, True, True]), []

    def must_answer():
        if not next(answers):
            raise SystemExit(names.BROKEN)

    monkeypatch.setattr(part, "_must_answer", must_answer)

    def start(name, until, since):
        try:
            part.run(module, Kept(name, tmp_path), until=until, since=since)
            seen.append(0)
        except SystemExit as end:
            seen.append(end.code)
        return seen[-1]

    assert driver.run_part("p", LATER, "", start) == ""
    assert seen == [names.BROKEN, 0]
    assert [len(pieces[name].seeds) for name in ("one", "two")] == [1, 1]


def test_a_process_that_ends_outside_of_a_piece_is_told(code, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "Kept", lambda name: Kept(name, tmp_path))
    assert driver.run_part("p", LATER, "", lambda *_: 1) == "p: its process ended with 1 outside of any piece"


def test_a_piece_that_was_cut_off_from_outside_is_run_again(module, pieces, code, tmp_path):
    Kept("p", tmp_path).begin("one")
    part.run(module, Kept("p", tmp_path), until=LATER)
    assert len(pieces["one"].seeds) == 1


def test_results_go_to_the_folder_for_what_comes_back(module, code, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    part.run(module, Kept("p", tmp_path), until=LATER)
    assert (tmp_path / "out/gpu-p.json").read_text() == (tmp_path / "gpu-p.json").read_text()


@pytest.mark.skipif(jax.devices()[0].platform != "cpu", reason="there is another device")
def test_without_a_gpu_all_parts_refuse_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=part.ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == names.NO_GPU
    lines = done.stdout.splitlines()
    assert lines[:1] == ["correctness"] and len(lines) == 2
    assert lines[1].startswith("no GPU: JAX sees cpu (cpu)")


def test_a_part_that_there_is_not_is_named(capsys):
    with pytest.raises(SystemExit):
        driver.main(["speeds"])
    assert "'speeds' must be one of correctness, dense_attention" in capsys.readouterr().err


def test_each_part_imports_with_what_the_machine_that_is_lent_has():
    absent = ("beartype", "gguf", "ml_collections", "tensorboardX", "tokamax", "jla", "torch", "fla", "mamba_ssm")
    program = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    program += "".join(f"import benchmarks.gpu.{name}\n" for name in names.PARTS)
    done = subprocess.run([sys.executable, "-c", program], cwd=part.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
