"""Pairs of texts: half of them follow each other, the others come from elsewhere, as a function of (seed, index)."""

import numpy as np
import pytest

from arch.data import pairs

CLS, SEP, OPENER = 997, 998, 999
LENGTHS = (60, 1, 2, 43, 31)  # without the opener: 59, 0, 1, 42, 30
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
# A token tells its document and its place in it.
TOKENS = np.concatenate([[OPENER, *(100 * i + np.arange(n - 1))] for i, n in enumerate(LENGTHS)]).astype(np.uint16)
SEQ_LEN = 23


def made(seed=3, shuffled=True, **changes):
    how = dict(seq_len=SEQ_LEN, cls_id=CLS, sep_id=SEP, seed=seed, shuffled=shuffled) | changes
    return pairs.Pairs(TOKENS, OFFSETS, **how)


def parts(sample):
    """A and B of a sample."""
    tokens = sample["tokens"][sample["valid"]]
    first, second = np.flatnonzero(tokens == SEP)
    assert tokens[0] == CLS and second == len(tokens) - 1
    return tokens[1:first], tokens[first + 1 : second]


SAMPLES = [made()[i] for i in range(600)]


def test_a_sample_has_bert_s_layout():
    for sample in SAMPLES[:50]:
        first, second = parts(sample)
        size = len(first) + len(second) + 3
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1) + [0] * (SEQ_LEN - size)
        assert sample["token_types"].tolist() == types
        assert sample["positions"].tolist() == [*range(size), *[0] * (SEQ_LEN - size)]
        assert sample["valid"].tolist() == [True] * size + [False] * (SEQ_LEN - size)
        assert len(first) and len(second) and OPENER not in sample["tokens"]


def test_the_second_text_follows_the_first_or_is_of_another_document():
    for sample in SAMPLES:
        first, second = parts(sample)
        assert np.all(np.diff(first) == 1) and np.all(np.diff(second) == 1)
        if sample["next_sentence"]:
            assert second[0] // 100 != first[-1] // 100
        else:
            assert second[0] == first[-1] + 1


def test_the_origin_of_a_sample_is_the_document_of_its_first_text():
    for index, sample in enumerate(SAMPLES[:50]):
        assert made().origin(index) == {"documents": [parts(sample)[0][0] // 100]}


def test_half_of_the_pairs_are_from_elsewhere():
    share = np.mean([sample["next_sentence"] for sample in SAMPLES])
    assert abs(share - 0.5) < 4 * 0.5 / len(SAMPLES) ** 0.5


def of_lengths(*lengths):
    """Documents of so many tokens and an opener each, in which a token is its place, and 600 labels and samples' Bs."""
    tokens = np.concatenate([np.arange(-1, n) % 1000 for n in lengths])
    offsets = np.concatenate([[0], np.cumsum(np.add(lengths, 1))])
    made = pairs.Pairs(tokens, offsets, seq_len=SEQ_LEN, cls_id=CLS, sep_id=SEP, shuffled=True)
    samples = [made[i] for i in range(600)]
    return np.array([sample["next_sentence"] for sample in samples]), [parts(sample)[1] for sample in samples]


def test_neither_length_nor_opening_of_the_second_text_tells_where_it_is_from():
    labels, seconds = of_lengths(3, 61, 2, 5, 4, 31, 7)
    sizes = np.array([len(second) for second in seconds])
    means = [sizes[labels == label].mean() for label in (0, 1)]
    assert abs(means[0] - means[1]) < 4 * sizes.std() * (2 / 300) ** 0.5
    assert all(second[0] > 0 for second in seconds)


def test_beside_short_documents_alone_each_second_text_is_short():
    labels, seconds = of_lengths(61, 5, 4)
    sizes = np.array([len(second) for second in seconds])
    assert [set(sizes[labels == label]) for label in (0, 1)] == [{1, 2, 3, 4}] * 2


def test_a_second_text_from_elsewhere_begins_at_each_place_but_the_first():
    labels, seconds = of_lengths(9, 9)
    for size in (4, 5, 6, 7, 8):
        starts = {int(text[0]) for text, label in zip(seconds, labels) if label and len(text) == size}
        assert starts == set(range(1, 10 - size))


def test_cuts_are_uniform():
    whole = [parts(sample) for sample in SAMPLES]
    cuts = np.array([len(first) for first, second in whole if len(first) + len(second) == SEQ_LEN - 3])
    assert set(cuts) == set(range(1, SEQ_LEN - 3))
    assert abs(cuts.mean() - (SEQ_LEN - 3) / 2) < 4 * cuts.std() / len(cuts) ** 0.5


def test_an_epoch_has_each_window_of_two_tokens_once():
    ordered = made(shuffled=False)
    assert ordered.samples_per_epoch == made().samples_per_epoch == 3 + 3 + 2  # 20 20 19, 20 20 2, 20 10
    first = lambda samples: sorted(parts(samples[i])[0][0] for i in range(ordered.samples_per_epoch))
    assert first(made()) == first(ordered) == [0, 20, 40, 300, 320, 340, 400, 420]


def test_a_sample_depends_on_seed_and_index_alone_and_changes_with_the_epoch():
    again, other = made(), made(seed=4)
    assert all(np.array_equal(again[i][name], SAMPLES[i][name]) for i in (599, 3, 77) for name in again[i])
    epoch = made().samples_per_epoch
    differ = lambda left, right: any(not np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(left, right))
    assert differ(SAMPLES[:epoch], SAMPLES[epoch : 2 * epoch])
    assert differ(SAMPLES[:epoch], [other[i] for i in range(epoch)])


def test_rows_too_short_and_texts_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="seq_len=4 must be at least 5"):
        made(seq_len=4)
    with pytest.raises(ValueError, match="1 documents of two tokens or more must be at least 2"):
        pairs.Pairs(TOKENS[:63], OFFSETS[:4], seq_len=SEQ_LEN, cls_id=CLS, sep_id=SEP, shuffled=True)
