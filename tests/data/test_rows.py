"""Whole documents in rows: what a row holds, and that the stream is one on any number of shards."""

import numpy as np
import pytest

from arch.data import dataset, rows, token_files

T = 11


def split(lengths, pairs=False, seed=0):
    """Documents of distinct tokens, whose labels are their tokens or -1."""
    offsets = np.cumsum([0, *lengths])
    tokens = np.arange(offsets[-1])
    labels = np.where(np.random.default_rng(seed).random(len(tokens)) < 0.5, tokens, -1)
    types = np.concatenate([np.arange(n) >= n // 3 for n in lengths]).astype(np.uint8)
    columns = {"labels": labels} | ({"token_types": 0 * types, "parts": types} if pairs else {})
    return token_files.Split(tokens, offsets, 0, (len(lengths),), columns)


def conversations(lengths):
    part = split(lengths)
    return part._replace(columns={"labels": (part.columns["labels"] >= 0).astype(np.int32)})


LENGTHS = np.random.default_rng(1).integers(2, 2 * T, 101)


@pytest.mark.parametrize("lengths, capacity, count", [([3, 3, 3, 2], 5, 3), ([4, 1, 2, 3], 5, 2), ([5], 5, 1)])
def test_the_best_fit_takes_the_fewest_rows_here(lengths, capacity, count):
    assert len(set(rows.best_fit(np.array(lengths), capacity).tolist())) == count


def test_no_row_holds_more_than_it_can_and_rows_are_counted_by_their_first():
    lengths = np.minimum(LENGTHS, T)
    found = rows.best_fit(lengths, T)
    held = np.bincount(found, lengths)
    assert held.max() <= T and len(held) < 1.05 * lengths.sum() / T + 1
    first = [int(np.argmax(found == row)) for row in range(len(held))]
    assert first == sorted(first)


def test_an_epoch_has_each_answer_of_each_conversation_once():
    part = conversations(np.minimum(LENGTHS, T + 1))
    packed = rows.Conversations(part, seq_len=T, seed=3, shuffled=True)
    for epoch in range(2):
        samples = [packed[epoch * packed.samples_per_epoch + i] for i in range(packed.samples_per_epoch)]
        got = np.concatenate([sample["targets"][sample["weights"] > 0] for sample in samples])
        inside = np.delete(part.columns["labels"], part.offsets[:-1])  # a conversation's first token is no target
        wanted = np.delete(part.tokens, part.offsets[:-1])[inside > 0]
        assert sorted(got) == sorted(wanted)
    assert packed.truncated == 0


def test_a_conversation_is_whole_and_sees_itself_alone():
    part = conversations([4, 5, 30])
    packed = rows.Conversations(part, seq_len=T, shuffled=False)
    short, long = (packed[i] for i in range(packed.samples_per_epoch))
    assert short["tokens"].tolist() == [0, 1, 2, 4, 5, 6, 7, 0, 0, 0, 0]
    assert short["targets"].tolist() == [1, 2, 3, 5, 6, 7, 8, 0, 0, 0, 0]
    assert short["segment_ids"].tolist() == [1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]
    assert short["positions"].tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0, 0, 0]
    assert np.array_equal(short["weights"][:7], part.columns["labels"][[1, 2, 3, 5, 6, 7, 8]])
    assert long["targets"].tolist() == list(range(10, 10 + T)) and packed.truncated == 1


def test_a_document_is_padded_without_labels():
    part = split([4, 7], seed=2)
    row = rows.Documents(part, seq_len=T, shuffled=False)[1]
    assert row["tokens"].tolist() == [4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 0]
    assert row["valid"].tolist() == [True] * 7 + [False] * 4
    labels = [*part.columns["labels"][4:], -1, -1, -1, -1]
    assert row["weights"].tolist() == [float(label >= 0) for label in labels] and row["weights"].any()
    assert row["targets"].tolist() == [max(label, 0) for label in labels]
    assert row["positions"].tolist() == list(range(T)) and "token_types" not in row


@pytest.mark.parametrize(
    "length, pairs, kept",
    [
        (20, False, [*range(10), 19]),
        (24, True, [*range(4), 7, *range(8, 13), 23]),  # parts of 8 and 16: both have to give
        (13, True, [0, 1, 2, 3, *range(4, 10), 12]),  # of 4 and 9: the longer alone gives
    ],
)
def test_a_long_document_loses_the_end_of_its_longer_part_but_for_what_closes_it(length, pairs, kept):
    documents = rows.Documents(split([length], pairs), seq_len=T, shuffled=False)
    assert documents[0]["tokens"].tolist() == kept and documents.truncated == 1


@pytest.mark.parametrize(
    "make, kept", [(rows.Documents, range(0, T - 1)), (rows.Conversations, range(1, T + 1))], ids=["document", "chat"]
)
@pytest.mark.parametrize("place", range(T + 2))
def test_a_long_document_whose_labels_lie_behind_what_is_kept_is_counted(make, kept, place):
    none = -1 if make is rows.Documents else 0
    labels = np.full(2 * T + 5, none)
    labels[[2, T + 2 + place]] = 1  # of a document that fits, and of one that does not
    part = split([T, T + 5])._replace(columns={"labels": labels})
    made = make(part, seq_len=T, shuffled=False)
    assert (made.truncated, made.unlabelled) == (1, int(place + 2 not in kept))
    weights = [made[i]["weights"].any() for i in range(made.samples_per_epoch)]
    assert weights.count(False) == made.unlabelled


@pytest.mark.parametrize("make", [rows.Documents, rows.Conversations], ids=lambda make: make.__name__)
def test_an_epoch_is_every_row_in_an_order_of_its_own(make):
    def firsts(epoch):
        samples = make(conversations(LENGTHS), seq_len=T, seed=5, shuffled=True)
        count = samples.samples_per_epoch
        return [int(samples[epoch * count + i]["tokens"][0]) for i in range(count)]

    orders = [firsts(0), firsts(1)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) and orders[1] == firsts(1)


@pytest.mark.parametrize("shards", [2, 4, 8])
@pytest.mark.parametrize("make", [rows.Documents, rows.Conversations], ids=lambda make: make.__name__)
def test_shards_side_by_side_are_the_one_stream_also_after_a_resume(make, shards):
    def batches(count, start=0):
        samples = make(conversations(LENGTHS), seq_len=T, seed=5, shuffled=True)
        return [
            dataset.batches(dataset.make(samples, batch_size=8, shard_index=i, shard_count=count), start_step=start)
            for i in range(count)
        ]

    (whole,) = batches(1)
    expected = [next(whole) for _ in range(25)]
    got = []
    for parts, steps in ((batches(shards), 9), (batches(8 // shards, 9), 16)):
        for _ in range(steps):
            pieces = [next(part) for part in parts]
            got.append({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(expected, got, strict=True) for name in a)


def test_rows_too_short_for_special_tokens_are_refused():
    with pytest.raises(ValueError, match="seq_len=3 must be at least 4"):
        rows.Documents(split([5]), seq_len=3, shuffled=False)
