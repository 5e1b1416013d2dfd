"""The points of sweeps, put together."""

import pytest

from arch import hyper

A, B = hyper.sweep("a", [1, 2]), hyper.sweep("b", "xy")


def test_a_product_is_every_point_with_every_other_and_the_last_changes_fastest():
    expected = [dict(a=1, b="x"), dict(a=1, b="y"), dict(a=2, b="x"), dict(a=2, b="y")]
    assert hyper.product([A, B]) == expected


def test_a_product_of_nothing_is_one_point_that_sets_nothing():
    assert hyper.product([]) == [{}]


def test_zipped_sweeps_go_side_by_side():
    assert hyper.zipit([A, B]) == [dict(a=1, b="x"), dict(a=2, b="y")]


def test_chained_sweeps_follow_each_other():
    assert hyper.chainit([A, B]) == [dict(a=1), dict(a=2), dict(b="x"), dict(b="y")]


def test_a_fixed_value_is_as_long_as_what_it_is_zipped_with():
    assert hyper.zipit([A, hyper.fixed("c", 7)]) == [dict(a=1, c=7), dict(a=2, c=7)]
    assert hyper.product([B, hyper.fixed("c", 7, length=1)]) == [dict(b="x", c=7), dict(b="y", c=7)]


def test_the_words_for_values_are_those_values():
    assert (hyper.discrete(range(2)), hyper.categorical("ab"), hyper.boolean()) == ([0, 1], ["a", "b"], [True, False])


def drawn(*sweeps, length=200):
    return hyper.zipit(sweeps, length=length)


def test_random_values_lie_in_their_interval_and_are_the_same_in_every_process():
    points = drawn(hyper.uniform("a", hyper.interval(2, 3)), hyper.loguniform("b", hyper.interval(1e-4, 1e-2)))
    assert all(2 <= point["a"] <= 3 and 1e-4 <= point["b"] <= 1e-2 for point in points)
    assert points[0] == {"a": 2.0206975952273054, "b": 0.005296647103441635}
    assert len({point["a"] for point in points}) == len(points)


def test_a_log_uniform_value_is_as_often_below_the_geometric_mean_as_above():
    points = drawn(hyper.loguniform("b", hyper.interval(1e-4, 1e-2)), length=1000)
    below = sum(point["b"] < 1e-3 for point in points)
    assert abs(below - 500) < 64  # four standard deviations


def test_random_values_of_a_list_are_of_that_list():
    assert {point["a"] for point in drawn(hyper.uniform("a", hyper.discrete([5, 7])))} == {5, 7}


@pytest.mark.parametrize(
    ("make", "message"),
    {
        "lengths": (lambda: hyper.zipit([A, hyper.sweep("b", range(3))]), "of one length: these have 2, 3"),
        "length": (lambda: hyper.zipit([A], length=3), "of one length: these have 2, 3"),
        "no length": (lambda: hyper.zipit([hyper.fixed("a", 1)]), "these have none"),
        "endless": (lambda: hyper.product([hyper.fixed("a", 1)]), "a has no end: put it into zipit"),
        "twice": (lambda: hyper.product([A, A]), "a is set twice in one point"),
        "interval": (lambda: hyper.interval(2, 2), "low=2 of an interval must be below high=2"),
        "logarithm": (lambda: hyper.loguniform("a", hyper.interval(0, 2)), "low=0 of the interval of a must be above"),
    }.values(),
)
def test_what_makes_no_points_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
