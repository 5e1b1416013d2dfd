"""Rules read both ways, and nothing of a published config or file is overlooked."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch.published import Attributes, Rule, differences

D, N, H, E = 3, 2, 5, 7

RULES = {
    "as it is": (Rule("a", "x"), [(D,)], [(D,)]),
    "heads": (Rule("a", "x", "(n h) d -> d n h", n=N), [(N * H, D)], [(D, N, H)]),
    "fused": (Rule(("q", "k", "v"), "x", "(n c h) d -> c d n h", c=3, h=H), [(N * 3 * H, D)], [(D, N, H)] * 3),
    "cut": (
        Rule(("q", "k", "v"), "x", "(n h) d -> d n h", cuts=(N * H, H, H), h=H),
        [(4 * H, D)],
        [(D, N, H), (D, 1, H), (D, 1, H)],
    ),
    "grouped": (
        Rule(("q", "k", "v"), "x", "g k h d -> d (k g) h", first="(k g h) d -> g k h d", cuts=(2, 1, 1), k=N, h=H),
        [(N * 4 * H, D)],
        [(D, N * 2, H), (D, N, H), (D, N, H)],
    ),
    "experts": (Rule("a", tuple("xyz"), "e f d -> e d f"), [(H, D)] * 3, [(3, D, H)]),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


def _values(shapes):
    return [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]


def test_a_rule_gives_our_shapes(rule):
    rule, theirs, ours = rule
    assert [x.shape for x in rule.load(_values(theirs))] == ours


def test_saving_what_was_loaded_gives_it_back(rule):
    rule, theirs, _ = rule
    tensors = _values(theirs)
    back = rule.save(rule.load(tensors))
    assert all(np.array_equal(a, b) for a, b in zip(tensors, back, strict=True))


def test_placing_tensor_by_tensor_fills_what_loading_gives(rule):
    rule, theirs, ours = rule
    filled = {path: np.full(shape, np.nan, np.float32) for path, shape in zip(rule.ours, ours, strict=True)}
    for number, tensor in enumerate(_values(theirs)):
        for path, index, value in rule.place(number, tensor):
            filled[path][index] = value
    assert all(map(np.array_equal, filled.values(), rule.load(_values(theirs))))


def test_a_shift_is_added_to_theirs_in_float32_and_taken_from_ours():
    rule = Rule(("a", "b"), "x", cuts=(1, 2), shift=1.0)
    theirs = np.array([2**-16, -0.75, 5.0], jnp.bfloat16)
    ours = rule.load([theirs])
    assert [x.dtype for x in ours] == [np.float32] * 2
    assert [x.tolist() for x in ours] == [[1 + 2**-16], [0.25, 6.0]]
    assert rule.save(ours)[0].tolist() == theirs.tolist()


def test_what_was_loaded_with_a_shift_is_saved_and_loaded_unchanged():
    rule = Rule("a", "x", shift=1.0)
    ours = rule.load(_values([(1000,)]))
    assert np.array_equal(rule.load(rule.save(ours))[0], ours[0])


def test_several_tensors_may_be_counted_by_an_inner_axis():
    rule = Rule("a", ("x", "y"), "e f d -> (f d) e", d=D)
    tensors = _values([(H, D), (H, D)])
    assert np.array_equal(rule.load(tensors)[0][:, 1], tensors[1].reshape(-1))


def test_several_tensors_that_nothing_of_ours_counts_raise():
    with pytest.raises(ValueError, match=r"pattern='e f d -> \(e f\) d' must keep its first axis"):
        Rule("a", ("x", "y"), "e f d -> (e f) d")


def test_several_tensors_that_make_several_of_ours_raise():
    with pytest.raises(ValueError, match="must be one, or make just one of ours"):
        Rule(("a", "b"), ("x", "y"))


def test_their_shapes_follow_from_ours(rule):
    rule, theirs, ours = rule
    assert rule.shapes(_values(ours)) == theirs


def test_a_fused_tensor_is_taken_apart_in_order():
    rows = np.arange(N * 3 * H, dtype=np.float32)[:, None] * np.ones((1, D), np.float32)
    query, key, value = RULES["fused"][0].load([rows])
    assert query[0].tolist() == [[0, 1, 2, 3, 4], [15, 16, 17, 18, 19]]
    assert key[0, 0].tolist() == [5, 6, 7, 8, 9] and value[0, 1].tolist() == [25, 26, 27, 28, 29]


def test_a_tensor_of_other_rows_than_the_cuts_raises():
    with pytest.raises(ValueError, match=r"x has 19 rows, not 10 \+ 5 \+ 5"):
        RULES["cut"][0].load([np.zeros((19, D), np.float32)])


def test_differences_name_what_is_missing_left_and_used_twice():
    rules = [Rule("a", "x"), Rule("b", "x"), Rule("c", "y")]
    assert differences(rules, ["a", "b", "d"], ["x", "z", "mask"], ["mask"]) == [
        "c is missing in the model",
        "d of the model is not used",
        "x is used 2 times",
        "y is missing in the file",
        "z of the file is not used",
    ]


def test_an_attribute_that_nobody_reads_raises():
    attributes = Attributes({"hidden_size": 3, "new_trick": True, "torch_dtype": "bfloat16"})
    assert attributes.get("hidden_size") == 3
    with pytest.raises(ValueError, match="new_trick=True is not handled"):
        attributes.finish()


def test_an_attribute_with_another_value_than_expected_raises():
    attributes = Attributes({"hidden_act": "tanh"})
    with pytest.raises(ValueError, match="hidden_act='tanh' must be 'silu' or 'gelu'"):
        attributes.expect("hidden_act", "silu", "gelu")


def test_a_missing_attribute_raises_unless_it_has_a_default():
    attributes = Attributes({"rope_theta": None})
    assert attributes.get("rope_theta", 10000.0) == 10000.0
    with pytest.raises(ValueError, match="config.json: hidden_size is missing"):
        attributes.get("hidden_size")


def test_null_has_a_value_of_its_own_where_one_is_given():
    attributes = Attributes({"sliding_window": None})
    assert attributes.get("sliding_window", 4096, null=0) == 0
    assert attributes.get("absent", 4096, null=0) == 4096


def test_an_attribute_that_is_null_and_unread_passes():
    Attributes({"new_trick": None}).finish()


def test_a_nested_attribute_that_nobody_reads_raises():
    attributes = Attributes({"rope_parameters": {"rope_theta": 7.0, "new_factor": 2}})
    assert attributes.nested("rope_parameters").get("rope_theta") == 7.0
    with pytest.raises(ValueError, match="config.json: rope_parameters: new_factor=2 is not handled"):
        attributes.finish()


def test_an_absent_nested_attribute_is_empty():
    attributes = Attributes({"rope_scaling": None})
    assert attributes.nested("rope_scaling").get("factor", 1.0) == attributes.nested("other").get("factor", 1.0) == 1.0
    attributes.finish()


def test_an_attribute_that_should_hold_others_and_does_not_raises():
    with pytest.raises(ValueError, match="rope_parameters=3 must be an object"):
        Attributes({"rope_parameters": 3}).nested("rope_parameters")


def test_what_was_read_expected_ignored_or_inert_passes():
    attributes = Attributes({"a": 1, "b": 2, "c": 3, "bos_token_id": 4, "_name": "x"})
    attributes.get("a"), attributes.expect("b", 2), attributes.ignore("c")
    attributes.finish()
