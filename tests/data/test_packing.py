"""Windows over the permuted documents, as a pure function of (seed, index)."""

import numpy as np
import pytest

from arch.data.packing import Packed

THREE = np.array([9, 1, 2, 9, 3, 9, 4, 5, 6], np.uint16), np.array([0, 3, 5, 9])


def many(count=23, seed=0):
    """Documents of different lengths, every token different."""
    lengths = np.random.default_rng(seed).integers(1, 19, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(offsets[-1], dtype=np.uint32), offsets


def same(left, right):
    return all(np.array_equal(left[name], right[name]) for name in left)


def test_three_documents_in_windows_of_five():
    packed = Packed(*THREE, seq_len=5, shuffled=False)
    assert packed.samples_per_epoch == 2
    first, second = packed[0], packed[1]
    assert first["tokens"].tolist() == [9, 1, 2, 9, 3]
    assert first["targets"].tolist() == [1, 2, 9, 3, 9]
    assert first["segment_ids"].tolist() == [1, 1, 1, 2, 2]
    assert first["positions"].tolist() == [0, 1, 2, 0, 1]
    assert first["weights"].tolist() == [1, 1, 1, 1, 1]
    assert second["tokens"].tolist() == [9, 4, 5, 0, 0]
    assert second["targets"].tolist() == [4, 5, 6, 0, 0]
    assert second["segment_ids"].tolist() == [1, 1, 1, 0, 0]
    assert second["positions"].tolist() == [0, 1, 2, 0, 0]
    assert second["weights"].tolist() == [1, 1, 1, 0, 0]


def test_a_document_that_goes_on_starts_at_position_zero_of_the_window():
    second = Packed(*THREE, seq_len=2, shuffled=False)[1]
    assert second["tokens"].tolist() == [2, 9]
    assert second["segment_ids"].tolist() == [1, 2] and second["positions"].tolist() == [0, 0]


def test_dtypes_do_not_depend_on_the_file():
    kinds = {name: str(x.dtype) for name, x in Packed(*many(), seq_len=7, shuffled=True)[3].items()}
    assert kinds.pop("weights") == "float32" and set(kinds.values()) == {"int32"}


def test_a_sample_depends_on_seed_and_index_alone():
    one, two = (Packed(*many(), seq_len=7, seed=5, shuffled=True) for _ in range(2))
    wanted = {i: one[i] for i in range(101)}
    assert all(same(two[i], wanted[i]) for i in reversed(range(101)))


def test_seeds_and_epochs_differ_in_order():
    five, six = (Packed(*many(), seq_len=7, seed=seed, shuffled=True) for seed in (5, 6))
    assert not same(five[0], six[0]) and not same(five[0], five[five.samples_per_epoch])


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_has_every_target_once_but_the_tail(epoch):
    tokens, offsets = many()
    packed = Packed(tokens, offsets, seq_len=7, seed=5, shuffled=True)
    per_epoch = packed.samples_per_epoch
    targets = np.concatenate([packed[epoch * per_epoch + i]["targets"] for i in range(per_epoch)])
    assert len(np.unique(targets)) == len(targets) == (len(tokens) - 1) // 7 * 7


def test_a_batch_is_not_one_documents_neighbouring_windows():
    tokens, offsets = many(count=199)
    packed = Packed(tokens, offsets, seq_len=3, seed=5, shuffled=True)
    firsts = [int(packed[i]["tokens"][0]) for i in range(97)]
    neighbours = sum(packed[i]["targets"][-1] == packed[i + 1]["tokens"][0] for i in range(96))
    assert len(set(firsts)) == 97 and neighbours < 5


def test_validation_has_every_target_once_in_order():
    tokens, offsets = many()
    packed = Packed(tokens, offsets, seq_len=7, shuffled=False)
    samples = [packed[i] for i in range(packed.samples_per_epoch)]
    targets = np.concatenate([sample["targets"][sample["weights"] == 1] for sample in samples])
    assert np.array_equal(targets, tokens[1:])
    assert not packed[packed.samples_per_epoch]["weights"].any()


def test_segments_are_the_documents():
    tokens, offsets = many()
    packed = Packed(tokens, offsets, seq_len=11, seed=2, shuffled=True)
    for i in range(40):
        sample = packed[i]
        document = np.searchsorted(offsets, sample["tokens"], side="right") - 1
        assert np.array_equal(np.diff(document) != 0, np.diff(sample["segment_ids"]) == 1)
        assert np.array_equal(np.diff(sample["positions"]) == 1, np.diff(document) == 0)


def test_the_origin_of_a_sample_is_its_segments_documents():
    tokens, offsets = many()
    packed = Packed(tokens, offsets, seq_len=13, seed=4, shuffled=True)
    for i in range(2 * packed.samples_per_epoch):
        sample, documents = packed[i], np.array(packed.origin(i)["documents"])
        held = np.searchsorted(offsets, sample["tokens"], side="right") - 1
        assert np.array_equal(documents[sample["segment_ids"] - 1], held)
        assert documents[-1] == np.searchsorted(offsets, sample["targets"][-1], side="right") - 1


def test_a_window_longer_than_the_split_is_refused():
    with pytest.raises(ValueError, match="seq_len=9 must be below the split's 9 tokens"):
        Packed(*THREE, seq_len=9, shuffled=True)
