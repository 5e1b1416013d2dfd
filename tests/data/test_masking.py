"""Masked tokens have BERT's statistics, and are a function of (seed, index, tokens)."""

import numpy as np
import pytest

from arch.data import masking, packing

CFG = masking.Config(mask_id=4, vocab_size=1009, special_ids=(0, 1, 2, 3))


def sample(length=200, padding=0, seed=0):
    tokens = np.random.default_rng(seed).integers(5, 1009, length).astype(np.int32)
    valid = np.arange(length) < length - padding
    tokens[[0, length // 2]] = 1, 2  # special
    return np.where(valid, tokens, 0).astype(np.int32), valid


def many(cfg=CFG, count=300):
    """Tokens, masked tokens and choices of many samples, each in a row."""
    rows = []
    for index in range(count):
        tokens, valid = sample(seed=index)
        rows.append((tokens, *masking.mask(tokens, valid, seed=3, index=index, cfg=cfg)))
    return map(np.stack, zip(*rows))


def test_fifteen_percent_of_the_ordinary_tokens_are_chosen_in_every_sample():
    _, _, chosen = many()
    assert (chosen.sum(1) == round(0.15 * 198)).all()


def test_eighty_percent_are_masked_ten_random_and_ten_kept():
    tokens, masked, chosen = many()
    n = chosen.sum()
    shares = [np.mean(part[chosen]) for part in (masked == 4, (masked != 4) & (masked != tokens), masked == tokens)]
    for share, expected in zip(shares, (0.8, 0.1, 0.1)):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + 0.1 / 1004


def test_every_place_is_chosen_as_often():
    _, _, chosen = many(count=2000)
    often = np.delete(chosen.mean(0), [0, 100])
    assert np.abs(often - 30 / 198).max() < 5 * np.sqrt(0.15 * 0.85 / 2000)


def test_special_tokens_and_padding_are_never_chosen_nor_drawn():
    cfg = CFG.replace(rate=1.0, mask_share=0.0, random_share=1.0)
    tokens, valid = sample(padding=50)
    masked, chosen = masking.mask(tokens, valid, seed=0, index=0, cfg=cfg)
    assert np.array_equal(chosen, valid & (tokens > 4))
    assert (masked[chosen] > 4).all() and np.array_equal(masked[~chosen], tokens[~chosen])


def test_random_tokens_are_uniform_over_the_ordinary_ones():
    cfg = masking.Config(mask_id=0, vocab_size=11, special_ids=(10,), rate=1.0, mask_share=0.0, random_share=1.0)
    tokens = np.ones(30_000, np.int32)
    masked, _ = masking.mask(tokens, tokens > 0, seed=0, index=0, cfg=cfg)
    assert np.abs(np.bincount(masked, minlength=11)[1:10] / 30_000 - 1 / 9).max() < 5 * np.sqrt(8 / 81 / 30_000)


def test_the_choice_depends_on_seed_and_index_alone():
    tokens, valid = sample()
    other = np.where(tokens > 4, 5 + (tokens + 7) % 1000, tokens).astype(np.int32)
    (_, one), (_, two) = (masking.mask(t, valid, seed=1, index=2, cfg=CFG) for t in (tokens, other))
    assert np.array_equal(one, two)
    for seed, index in ((2, 2), (1, 3)):
        assert not np.array_equal(masking.mask(tokens, valid, seed=seed, index=index, cfg=CFG)[1], one)


def test_a_short_sample_has_one_chosen_token_and_one_of_specials_none():
    tokens = np.array([1, 77, 2], np.int32)
    assert masking.mask(tokens, tokens > 0, seed=0, index=0, cfg=CFG)[1].tolist() == [False, True, False]
    tokens = np.array([1, 2], np.int32)
    assert not masking.mask(tokens, tokens > 0, seed=0, index=0, cfg=CFG)[1].any()


def test_a_packed_sample_keeps_its_tokens_as_targets_weighted_where_they_were_chosen():
    tokens, offsets = np.arange(5, 105, dtype=np.uint16), np.array([0, 60, 100])
    packed = packing.Packed(tokens, offsets, seq_len=80, shuffled=False)
    for index in range(2):  # the second is padded
        sample = packed[index]
        made = CFG.transform(sample, seed=0, index=index)
        restored = np.where(made["weights"] == 1, made["targets"], made["tokens"])
        assert made.keys() == sample.keys() and np.array_equal(restored, sample["tokens"])
        assert made["weights"].sum() == max(1, round(0.15 * (sample["segment_ids"] > 0).sum()))
        assert {k: v.dtype for k, v in made.items()} == {k: v.dtype for k, v in sample.items()}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(mask_share=0.95), "mask_share=0.95 and random_share=0.1 must be at most 1 together"),
        (dict(mask_id=1009), "vocab_size=1009 must be above the special token 1009"),
        (dict(vocab_size=5), "vocab_size=5 must have tokens that are not special"),
    ],
)
def test_shares_and_ids_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CFG.replace(**change)
