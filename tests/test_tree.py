"""Nested dicts by path; the scanned and the canonical form are inverse to each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree

SCANNED = {
    "embedding": {"table": jnp.zeros((3, 2))},
    "layers": {
        "0": {"a": {"x": jnp.asarray(10.0)}},
        "scan_1_2": {
            "0": {"a": {"x": jnp.asarray([11.0, 13.0, 15.0])}},
            "1": {"b": {"x": jnp.asarray([12.0, 14.0, 16.0]), "bias": jnp.asarray([[2.0], [4.0], [6.0]])}},
        },
        "7": {"a": {"x": jnp.asarray(17.0)}},
        "common": {"x": jnp.asarray(99.0)},
    },
}


def _same(actual, expected):
    actual, expected = tree.paths(actual), tree.paths(expected)
    assert sorted(actual) == sorted(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value, err_msg=path)


def test_unstacked_layers_stand_in_their_order():
    layers = tree.unstack(SCANNED)["layers"]
    assert list(layers) == ["0", "1", "2", "3", "4", "5", "6", "7", "common"]
    values = [float(next(iter(layers[str(i)].values()))["x"]) for i in range(8)]
    assert values == [10, 11, 12, 13, 14, 15, 16, 17]


def test_unstacking_drops_the_leading_axis():
    assert tree.unstack(SCANNED)["layers"]["4"]["b"]["bias"].shape == (1,)


def test_stack_is_the_inverse_of_unstack():
    _same(tree.stack(tree.unstack(SCANNED), SCANNED), SCANNED)


def test_unstack_is_the_inverse_of_stack():
    canonical = tree.unstack(SCANNED)
    _same(tree.unstack(tree.stack(canonical, SCANNED)), canonical)


def test_a_tree_without_a_scan_stays_as_it_is():
    canonical = tree.unstack(SCANNED)
    _same(tree.unstack(canonical), canonical)
    _same(tree.stack(canonical, canonical), canonical)


def test_more_than_ten_layers_keep_their_numbers():
    scanned = {"scan_0_1": {"0": {"x": jnp.arange(13.0)}}}
    canonical = tree.unstack(scanned)
    assert list(canonical) == [str(i) for i in range(13)]
    _same(tree.stack(canonical, scanned), scanned)


def test_a_tree_that_lacks_leaves_is_stacked_as_far_as_it_goes():
    bias, _ = tree.partition(SCANNED, tree.select(SCANNED, ["/bias$"]))
    canonical = tree.unstack(bias)
    assert list(tree.paths(canonical)) == ["layers/2/b/bias", "layers/4/b/bias", "layers/6/b/bias"]
    _same(tree.stack(canonical, SCANNED), bias)


def test_an_empty_tree_stays_empty():
    assert tree.unstack({}) == {} and tree.stack({}, SCANNED) == {}


def test_a_group_in_the_middle_of_a_period_leaves_a_gap():
    period = {"0": {"x": jnp.asarray([0.0, 3.0])}, "2": {"x": jnp.asarray([2.0, 5.0])}}
    scanned = {"common": {"x": jnp.ones(2)}, "scan_0_3": period}
    canonical = tree.unstack(scanned)
    assert list(canonical) == ["0", "2", "3", "5", "common"]
    assert [float(canonical[i]["x"]) for i in ("0", "2", "3", "5")] == [0, 2, 3, 5]
    _same(tree.stack(canonical, scanned), scanned)


def test_stack_joins_leaves_as_it_is_told():
    names = {str(i): {"x": f"layer {i}"} for i in range(3)}
    scanned = {"scan_0_1": {"0": {"x": jnp.zeros(3)}}}
    assert tree.stack(names, scanned, combine=" ".join) == {"scan_0_1": {"0": {"x": "layer 0 layer 1 layer 2"}}}


NESTED = {"a": {"x": 1, "y": 2}, "b": {"c": {"x": 3}}}


def test_paths():
    assert tree.paths(NESTED) == {"a/x": 1, "a/y": 2, "b/c/x": 3}


def test_from_paths_is_the_inverse_of_paths():
    assert tree.from_paths(tree.paths(NESTED)) == NESTED


def test_a_function_gets_the_path_and_the_leaves():
    mapped = tree.map_with_path(lambda path, a, b: f"{path}:{a + b}", {"a": {"x": 1}}, {"a": {"x": 5}})
    assert mapped == {"a": {"x": "a/x:6"}}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [([], []), (["x"], ["a/x", "b/c/x"]), (["^a/", "c/x$"], ["a/x", "a/y", "b/c/x"]), (["^x"], [])],
)
def test_a_leaf_is_selected_when_a_pattern_is_found_in_its_path(patterns, chosen):
    assert [path for path, yes in tree.paths(tree.select(NESTED, patterns)).items() if yes] == chosen


def test_partition_splits_by_the_mask():
    inside, outside = tree.partition(NESTED, tree.select(NESTED, ["x"]))
    assert inside == {"a": {"x": 1}, "b": {"c": {"x": 3}}} and outside == {"a": {"y": 2}}


def test_merge_is_the_inverse_of_partition():
    assert tree.merge(*tree.partition(NESTED, tree.select(NESTED, ["^a/x"]))) == NESTED


def test_merging_trees_that_share_a_leaf_is_refused():
    with pytest.raises(ValueError, match="b/c/x is a leaf of both trees"):
        tree.merge(NESTED, {"b": {"c": {"x": 0}}})


def test_count_is_the_number_of_values():
    assert tree.count(SCANNED) == 6 + 1 + 3 + 3 + 3 + 1 + 1
