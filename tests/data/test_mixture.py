"""Mixed sources are one stream: a function of (seed, index), in exact shares, whatever the shards."""

import numpy as np
import pytest

from arch.data import dataset, mixture, tokenized

WEIGHTS = (0.5, 0.3, 0.2)


class Numbers:
    """A source whose samples are their own numbers."""

    samples_per_epoch = 7

    def __getitem__(self, index):
        return {"number": np.array(index)}

    def origin(self, index):
        return {"documents": [index]}


def mixed(seed=0, weights=WEIGHTS):
    return mixture.Mixture([Numbers() for _ in weights], weights, seed=seed)


def chosen(made, indices):
    return np.array([made.locate(i)[0] for i in indices])


def test_the_origin_of_a_sample_is_its_source_and_what_that_tells():
    made = mixed()
    for i in range(23):
        source, number = made.locate(i)
        assert made.origin(i) == {"source": source, "documents": [number]}


def test_each_source_is_read_in_its_own_order_without_a_gap():
    made = mixed()
    numbers = [[], [], []]
    for i in range(2 * mixture.BLOCK + 99):
        source, number = made.locate(i)
        numbers[source].append(number)
    assert all(seen == list(range(len(seen))) for seen in numbers)


def test_a_sample_is_that_of_its_source_and_depends_on_seed_and_index_alone():
    one, two = mixed(seed=3), mixed(seed=3)
    wanted = {i: one.locate(i) for i in range(0, 3 * mixture.BLOCK, 997)}
    assert all(two.locate(i) == wanted[i] and two[i]["number"] == wanted[i][1] for i in reversed(wanted))
    assert not np.array_equal(chosen(mixed(seed=4), range(99)), chosen(one, range(99)))


def test_each_block_meets_the_shares_to_a_sample():
    blocks = [np.bincount(chosen(mixed(), range(b * mixture.BLOCK, (b + 1) * mixture.BLOCK))) for b in (0, 5)]
    assert np.array_equal(*blocks)
    assert np.abs(blocks[0] - np.array(WEIGHTS) * mixture.BLOCK).max() < 1


def test_over_the_seeds_the_shares_are_exact():
    weights = (1.0, mixture.BLOCK / 3)  # the first has three points of a block and, by the seed, rarely a fourth
    share = mixture.BLOCK * weights[0] / sum(weights)
    counts = [mixed(seed, weights)._counts[0] for seed in range(4000)]
    assert set(counts) == {2, 3} and abs(np.mean(counts) - share) < 4 * np.std(counts) / 4000**0.5


def test_the_order_of_sources_is_random():
    first = chosen(mixed(), range(mixture.BLOCK)) == 0
    repeats = np.mean(first[1:] == first[:-1])  # 1/2 for independent draws
    assert abs(repeats - 0.5) < 4 * 0.5 / mixture.BLOCK**0.5
    second = chosen(mixed(), range(mixture.BLOCK, 2 * mixture.BLOCK)) == 0
    assert abs(np.mean(first == second) - 0.5) < 4 * 0.5 / mixture.BLOCK**0.5


def test_a_share_too_small_to_be_met_is_refused():
    with pytest.raises(ValueError, match=r"mixture\[1\]\.weight=1e-05 must be at least 1/16384 of all weights"):
        mixed(weights=(1.0, 1e-5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name in ("a", "b"):
        lines = (f"{name * (i % 17 + 1)} {i}\n" for i in range(307))
        (folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "c.jsonl").write_text("".join(f'{{"text": "{"c" * i}"}}\n' for i in range(101)))
    return folder


def configured(folder, **changes):
    parts = [dict(path=str(folder / "a.txt"), weight=5), dict(path=str(folder / "b.txt"), weight=3)]
    parts.append(dict(path=str(folder / "c.jsonl"), weight=2))
    parts = tuple(tokenized.Part(piece_chars=67, **part) for part in parts)
    return tokenized.Config(mixture=parts, valid_fraction=0.2, **changes)


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    return tokenized.prepare(configured(folder), tmp_path_factory.mktemp("run") / "data")


def made(data, shards, **changes):
    packed = dataset.packed(data, "train", **dict(seq_len=13, seed=3) | changes)
    return [dataset.make(packed, batch_size=8, shard_index=i, shard_count=shards) for i in range(shards)]


def joined(rows):
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def equal(left, right):
    return len(left) == len(right) and all(np.array_equal(a[k], b[k]) for a, b in zip(left, right) for k in a)


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_of_a_mixture_side_by_side_are_the_one_stream(data, shards):
    whole, parts = made(data, 1)[0], made(data, shards)
    steps = range(0, 4000, 37)  # many epochs of each source
    assert equal([joined([part[step] for part in parts]) for step in steps], [whole[step] for step in steps])


@pytest.mark.parametrize("before, after", [(1, 4), (8, 2)])
def test_a_mixture_resumed_on_other_shards_goes_on_in_the_one_stream(data, before, after):
    read = []
    for shards, start, end in ((before, 0, 31), (after, 31, 60)):
        parts = [dataset.batches(part, start_step=start) for part in made(data, shards)]
        read += [joined([next(part) for part in parts]) for _ in range(start, end)]
        for part in parts:
            part.close()
    assert equal(read, [made(data, 1)[0][step] for step in range(60)])


def test_tokens_come_from_the_sources_in_their_shares(data):
    letters = np.array([ord(letter) for letter in "abc"])
    batches = [made(data, 1)[0][step]["tokens"].reshape(-1, 13, 1) == letters for step in range(250)]
    kinds = np.concatenate([batch.any(1) for batch in batches])
    assert (kinds.sum(1) <= 1).all()  # no sample is of two sources
    shares = kinds.sum(0) / kinds.sum()
    assert np.abs(shares - (0.5, 0.3, 0.2)).max() < 0.05


def test_an_epoch_of_a_source_has_each_of_its_targets_once(data):
    """Whatever the weights of the others: the second source's first epoch, found in the mixed stream."""
    packed = dataset.packed(data, "train", seq_len=13, seed=3)
    source = packed._sources[1]
    indices = [i for i in range(9000) if packed.locate(i)[0] == 1][: source.samples_per_epoch]
    got = np.concatenate([packed[i]["targets"] for i in indices])
    first, last = np.cumsum((0, *data.splits["train"].sources))[1:3]
    offsets = data.splits["train"].offsets
    held = data.splits["train"].tokens[offsets[first] : offsets[last]]
    left = np.bincount(held, minlength=257) - np.bincount(got, minlength=257)
    assert (left >= 0).all() and left.sum() <= 13  # the window that is not filled, and the first token


def test_validation_is_all_of_every_source(data, folder, tmp_path):
    alone = 0
    for i, part in enumerate(configured(folder).mixture):
        cfg = tokenized.Config(path=part.path, piece_chars=67, valid_fraction=0.2)
        alone += len(tokenized.prepare(cfg, tmp_path / str(i)).splits["valid"].tokens)
    assert len(data.splits["valid"].tokens) == alone


def test_a_mixture_leaves_out_the_fields_of_a_single_source(folder):
    with pytest.raises(ValueError, match="max_bytes=7 must be left out with a mixture"):
        configured(folder, max_bytes=7)


def test_a_source_shorter_than_a_sample_is_named(data):
    with pytest.raises(ValueError, match=r"seq_len=5000 must be below the split's \d+ tokens \(train, mixture\[0\] .*"):
        made(data, 1, seq_len=5000)
