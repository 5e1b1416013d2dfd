"""Span corruption has T5's lengths, loses nothing, and is a function of (seed, index, tokens)."""

import numpy as np
import pytest

from arch.data import spans

CFG = spans.Config(sentinels=tuple(range(32099, 31999, -1)), end_id=1)
TEXT = np.arange(100, 668, dtype=np.int32)  # as long as T5's: no two tokens are the same, no sentinel among them


def restored(inputs, targets, cfg=CFG):
    """The text that input and target together hold."""
    sentinels = set(cfg.sentinels)
    held, current = {}, None
    for token in targets[:-1].tolist():
        if token in sentinels:
            held[current := token] = []
        else:
            held[current].append(token)
    return [t for token in inputs[:-1].tolist() for t in (held[token] if token in sentinels else [token])]


def test_lengths_are_those_of_t5():
    assert spans.text_length(512, CFG) == 568  # its random_spans_helper, at 15 % and spans of 3
    assert spans.lengths(568, CFG) == (512, 114)


@pytest.mark.parametrize("length", [2, 3, 7, 29, 101, 568])
@pytest.mark.parametrize("density", [0.15, 0.5, 0.9])
def test_the_text_is_restored_from_input_and_target(length, density):
    cfg = CFG.replace(density=density, sentinels=tuple(range(32099, 31099, -1)))
    for index in range(20):
        inputs, targets = spans.corrupt(TEXT[:length], seed=0, index=index, cfg=cfg)
        assert restored(inputs, targets, cfg) == TEXT[:length].tolist()
        assert (len(inputs), len(targets)) == spans.lengths(length, cfg)
        assert inputs[-1] == targets[-1] == cfg.end_id and inputs.dtype == targets.dtype == np.int32


def test_sentinels_come_in_order_and_are_the_same_in_input_and_target():
    inputs, targets = spans.corrupt(TEXT, seed=0, index=0, cfg=CFG)
    expected = list(range(32099, 32099 - 28, -1))
    assert [t for t in inputs if t > 10_000] == expected == [t for t in targets if t > 10_000]
    assert targets[0] == 32099 and inputs[0] == TEXT[0]


def test_fifteen_percent_are_cut_out_in_spans_of_three_on_average():
    noise, count = spans.counts(568, CFG)
    assert noise == round(0.15 * 568) == 85 and count == round(85 / 3) == 28
    _, targets = spans.corrupt(TEXT, seed=0, index=0, cfg=CFG)
    sizes = np.diff(np.flatnonzero(np.append(targets[:-1], 32000) > 10_000)) - 1
    assert sizes.sum() == noise and len(sizes) == count and sizes.min() >= 1


def test_every_way_to_cut_is_as_likely():
    """Of 6 noise tokens in 3 spans: 10 ways, by stars and bars."""
    cfg = CFG.replace(density=0.5, mean_span=2.0)
    seen = {}
    for index in range(4000):
        _, targets = spans.corrupt(TEXT[:12], seed=0, index=index, cfg=cfg)
        sizes = tuple(np.diff(np.flatnonzero(np.append(targets[:-1], 32000) > 10_000)) - 1)
        seen[sizes] = seen.get(sizes, 0) + 1
    assert len(seen) == 10
    assert max(abs(count / 4000 - 0.1) for count in seen.values()) < 5 * np.sqrt(0.1 * 0.9 / 4000)


def test_spans_depend_on_seed_and_index_alone():
    def places(tokens, seed, index):
        inputs, _ = spans.corrupt(tokens, seed=seed, index=index, cfg=CFG)
        return np.flatnonzero(inputs > 10_000).tolist()

    assert places(TEXT, 1, 2) == places(TEXT[::-1], 1, 2)
    assert places(TEXT, 1, 2) != places(TEXT, 2, 2) and places(TEXT, 1, 2) != places(TEXT, 1, 3)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sentinels=CFG.sentinels[:27]), "num_sentinels=27 must be at least 28, the spans of 568 tokens"),
        (dict(density=1.0), "density=1.0 must be below 1"),
    ],
)
def test_what_cannot_be_cut_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        spans.corrupt(TEXT, seed=0, index=0, cfg=CFG.replace(**change))


def test_texts_too_short_are_refused():
    with pytest.raises(ValueError, match="length=1 must be at least 2"):
        spans.corrupt(TEXT[:1], seed=0, index=0, cfg=CFG)
    with pytest.raises(ValueError, match="inputs_length=2 must be at least 3"):
        spans.text_length(2, CFG)
