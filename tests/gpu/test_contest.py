"""Contests on CPU at tiny size: what is timed, what is told of each side, and whose absence or error ends nothing."""

import time

import jax
import jax.numpy as jnp
import pytest

from benchmarks.gpu import contest, timing
from benchmarks.gpu.contest import Contest, Operand


def absent():
    raise ImportError("peer 1.2 is not installed")


def failing():
    def run(x, w, number):
        raise NotImplementedError("not on this device\nbut on others")

    return run


def product(x, w, number):
    return number * (x @ w)


SIDES = {
    "own": lambda: product,
    "wrong": lambda: lambda x, w, number: 1.25 * product(x, w, number),
    "nan": lambda: lambda x, w, number: jnp.nan * product(x, w, number),
    "absent": absent,
    "failing": failing,
}
OPERANDS = {
    "x": Operand((5, 7), "float32"),
    "w": Operand((7, 3), "float32"),
    "number": Operand((), "int32", lambda key, shape: 2, gradient=False),
}


@pytest.fixture(scope="module")
def rows():
    bytes_moved = {"forward": 8e9}
    held = Contest(
        "product", OPERANDS, SIDES, "own", flops=2e9, bytes=bytes_moved, without={("wrong", "forward"): "too slow"}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "CACHE_BYTES", 1)
        found = held.run(seed=3, samples=5, sample_s=0.0)
    assert all(row["contest"] == "product" and row["seed"] == 3 for row in found)
    return {(row["side"], row["what"]): row for row in found}


def test_a_side_is_timed_forward_and_with_its_gradients(rows):
    for what, operations in (("forward", 1), ("forward+backward", 3)):
        row = rows["own", what]
        assert 0 < row["least_ms"] <= row["median_ms"] and row["samples"] == 5
        assert row["tflop_s"] == pytest.approx(operations * 2 / row["median_ms"], abs=0.06)
    assert rows["own", "forward"]["tb_s"] == pytest.approx(8 / rows["own", "forward"]["median_ms"], abs=6e-4)
    assert "tb_s" not in rows["own", "forward+backward"]


def test_results_of_other_sides_are_compared_values_and_gradients(rows):
    assert "difference" not in rows["own", "forward"]
    assert rows["wrong", "forward+backward"]["difference"] == pytest.approx(0.25)
    assert rows["nan", "forward"]["difference"] == "nan"


@pytest.mark.parametrize("what", contest.PASSES)
def test_who_is_absent_or_fails_is_named_and_has_no_time(rows, what):
    assert rows["absent", what]["missing"] == "peer 1.2 is not installed"
    assert rows["failing", what]["error"] == "NotImplementedError: not on this device"
    assert not any("median_ms" in rows[side, what] for side in ("absent", "failing"))


def test_a_side_that_has_no_turn_in_a_pass_says_why(rows):
    assert rows["wrong", "forward"] == rows["wrong", "forward"] | {"missing": "too slow"}
    assert "median_ms" in rows["wrong", "forward+backward"]


def test_operands_are_as_many_as_do_not_fit_the_cache_and_differ(monkeypatch):
    held = Contest("product", OPERANDS, SIDES)
    size = 4 * (5 * 7 + 7 * 3 + 1)
    monkeypatch.setattr(contest, "CACHE_BYTES", size)
    sets = held._sets(0)
    assert len(sets) == 5
    assert len({float(x[0, 0]) for x, *_ in sets}) == 5
    assert not jnp.array_equal(held._sets(1)[0][0], sets[0][0])


def test_programs_are_lowered_but_those_of_sides_that_are_absent():
    where = jax.sharding.NamedSharding(jax.make_mesh((1,), ("x",)), jax.sharding.PartitionSpec())
    lowers = {(side, what): lower for side, what, lower in Contest("product", OPERANDS, SIDES).lowered(where)}
    assert set(lowers) == {(side, what) for side in SIDES for what in contest.PASSES}
    assert lowers["own", "forward+backward"]().as_text().count("stablehlo.dot_general") == 3
    with pytest.raises(ImportError):
        lowers["absent", "forward"]()


class Sleeper:
    """Hands work out at once, and waits for all of it."""

    def __init__(self, seconds):
        self.seconds, self.launched, self.todo = seconds, [], 0

    def launch(self, number):
        self.launched.append(number)
        self.todo += 1
        return self.todo

    def wait(self, result):
        assert result == self.todo
        time.sleep(self.seconds * self.todo)
        self.todo = 0


def test_a_sample_is_many_launches_one_behind_the_other():
    side = Sleeper(0.001)
    row = timing.in_turns({"": side}, samples=3, sample_s=0.004)[""]
    assert row["launches"] >= 2 and row["samples"] == 3
    assert 1.0 <= row["median_ms"] < 5.0
    assert row["host_share"] < 0.5
    assert side.launched[-row["launches"] :] == list(range(row["launches"]))
