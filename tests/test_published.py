"""Rules read both ways, and nothing of a published config or file is overlooked."""

import numpy as np
import pytest

from arch.published import Attributes, Rule, differences

D, N, H, E = 3, 2, 5, 7

RULES = {
    "as it is": (Rule("a", "x"), [(D,)], [(D,)]),
    "heads": (Rule("a", "x", "(n h) d -> d n h", n=N), [(N * H, D)], [(D, N, H)]),
    "fused": (Rule(("q", "k", "v"), "x", "(n c h) d -> c d n h", c=3, h=H), [(N * 3 * H, D)], [(D, N, H)] * 3),
    "cut": (Rule(("q", "k", "v"), "x", "(n h) d -> d n h", cuts=(N * H, H, H), h=H), [(4 * H, D)], [(D, N, H), (D, 1, H), (D, 1, H)]),
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


def test_what_was_read_expected_ignored_or_inert_passes():
    attributes = Attributes({"a": 1, "b": 2, "c": 3, "bos_token_id": 4, "_name": "x"})
    attributes.get("a"), attributes.expect("b", 2), attributes.ignore("c")
    attributes.finish()
