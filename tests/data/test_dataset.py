"""The folder of tokenised text, and batches of it on any number of shards."""

import json

import numpy as np
import pytest

from arch.data import dataset, tokenized

CONFIG = dict(piece_chars=67, valid_fraction=0.2)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("".join(f"line {i} of a naïve text\n" for i in range(211)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(text, tmp_path_factory):
    return tokenized.prepare(tokenized.Config(path=str(text), **CONFIG), tmp_path_factory.mktemp("run") / "data")


def stream(data, steps, shards, split="train", batch_size=8):
    """The global batches of these steps, put together from the shards' rows."""
    packed = dataset.packed(data, split, seq_len=13, seed=3)
    parts = [
        dataset.make(packed, batch_size=batch_size, shard_index=i, shard_count=shards) for i in range(shards)
    ]
    return [{k: np.concatenate([part[step][k] for part in parts]) for k in parts[0][0]} for step in steps]


def equal(left, right):
    return len(left) == len(right) and all(np.array_equal(a[k], b[k]) for a, b in zip(left, right) for k in a)


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_side_by_side_are_the_one_stream(data, shards, split):
    steps = range(70) if split == "train" else range(3)
    assert equal(stream(data, steps, shards, split), stream(data, steps, 1, split))


def test_a_run_resumed_on_other_shards_goes_on_in_the_one_stream(data):
    packed = dataset.packed(data, "train", seq_len=13, seed=3)
    parts = [
        dataset.batches(dataset.make(packed, batch_size=8, shard_index=i, shard_count=4), start_step=41)
        for i in range(4)
    ]
    resumed = []
    for _ in range(29):
        rows = [next(part) for part in parts]
        resumed.append({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    for part in parts:
        part.close()
    assert equal(resumed, stream(data, range(41, 70), 1))


def test_ids_count_the_samples(data):
    assert stream(data, [5], 2)[0]["ids"].tolist() == list(range(40, 48))


def test_training_does_not_end_within_the_ids(data):
    endless = dataset.make(dataset.packed(data, "train", seq_len=13), batch_size=8)
    assert len(endless) * 8 == 2**31 - 8
    assert endless[len(endless) - 1]["ids"][-1] == 2**31 - 9


def test_validation_has_every_target_once_and_marks_rows_of_padding(data):
    tokens = data.splits["valid"].tokens
    read = list(dataset.batches(dataset.make(dataset.packed(data, "valid", seq_len=13), batch_size=8)))
    weights = np.concatenate([batch["weights"] for batch in read])
    targets = np.concatenate([batch["targets"] for batch in read])
    ids = np.concatenate([batch["ids"] for batch in read])
    assert np.array_equal(targets[weights == 1], tokens[1:])
    assert np.array_equal(ids >= 0, weights.any(axis=1)) and (ids < 0).any()


def test_shapes_are_those_of_the_shard(data):
    batch = dataset.make(dataset.packed(data, "train", seq_len=13), batch_size=6, shard_count=2)[0]
    assert {name: x.shape for name, x in batch.items()} == dict.fromkeys(batch, (3, 13)) | {"ids": (3,)}


def test_bad_sizes_are_refused(data):
    with pytest.raises(ValueError, match="batch_size=6 must be a multiple of shard_count=4"):
        dataset.make(dataset.packed(data, "train", seq_len=13), batch_size=6, shard_count=4)
    with pytest.raises(ValueError, match=r"seq_len=100000 must be below the split's \d+ tokens \(train\)"):
        dataset.make(dataset.packed(data, "train", seq_len=100_000), batch_size=6)
    with pytest.raises(ValueError, match="shard_index=2 must be at least 0 and below shard_count=2"):
        dataset.make(dataset.packed(data, "train", seq_len=13), batch_size=6, shard_index=2, shard_count=2)


@pytest.mark.parametrize("kind", [{}, dict(kind="bpe", vocab_size=271)])
def test_the_folder_holds_the_text_with_separators(text, tmp_path, kind):
    cfg = tokenized.Config(path=str(text), **CONFIG, tokenizer=tokenized.tokenizers.Config(**kind))
    data = tokenized.prepare(cfg, tmp_path / "data")
    lines = []
    for tokens, offsets, num_bytes, *_ in data.splits.values():
        assert np.array_equal(np.flatnonzero(tokens == data.tokenizer.separator), offsets[:-1])
        assert num_bytes == len(data.tokenizer.decode(tokens).encode()) and tokens.dtype == np.uint16
        lines += [data.tokenizer.decode(tokens[a:b]) for a, b in zip(offsets, offsets[1:])]
    assert sorted("".join(lines)) == sorted(text.read_text(encoding="utf-8"))


def test_a_whole_folder_needs_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("some words\n" * 50)
    cfg = tokenized.Config(path=str(tmp_path / "a.txt"), **CONFIG)
    made = tokenized.prepare(cfg, tmp_path / "data")
    (tmp_path / "a.txt").unlink()
    again = tokenized.prepare(cfg, tmp_path / "data")
    assert again.fingerprint == made.fingerprint
    assert np.array_equal(again.splits["train"].tokens, made.splits["train"].tokens)


def test_the_fingerprint_follows_the_text_and_not_the_place(tmp_path):
    (tmp_path / "a.txt").write_text("some words\n" * 50)
    cfg = tokenized.Config(path=str(tmp_path / "a.txt"), **CONFIG)
    one, two = (tokenized.prepare(cfg, tmp_path / name).fingerprint for name in ("one", "two"))
    (tmp_path / "a.txt").write_text("some Words\n" * 50)
    assert one == two != tokenized.prepare(cfg, tmp_path / "three").fingerprint


@pytest.mark.parametrize(
    "change, field",
    [
        (dict(path=""), "data.path=''"),
        (dict(valid_fraction=0.3), "data.valid_fraction=0.3"),
        (dict(tokenizer=tokenized.tokenizers.Config(kind="bpe", vocab_size=300)), "data.tokenizer.kind='bpe'"),
    ],
)
def test_a_folder_of_other_data_names_the_changed_field(text, tmp_path, change, field):
    cfg = tokenized.Config(path=str(text), **CONFIG)
    tokenized.prepare(cfg, tmp_path / "data")
    with pytest.raises(ValueError, match=f"^{field} must be "):
        tokenized.prepare(cfg.replace(**change), tmp_path / "data")


def test_what_a_killed_run_left_is_not_used(text, tmp_path):
    (tmp_path / "data.partial").mkdir()
    (tmp_path / "data.partial" / "meta.json").write_text("{}")
    tokenized.prepare(tokenized.Config(path=str(text), **CONFIG), tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failed_run_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no such path"):
        tokenized.prepare(tokenized.Config(path=str(tmp_path / "none")), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def damage_version(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format_version": 99}))


@pytest.mark.parametrize(
    "damage, why",
    [
        (lambda folder: (folder / "meta.json").unlink(), "No such file"),
        (lambda folder: (folder / "meta.json").write_text("{"), "Expecting"),
        (lambda folder: (folder / "valid.offsets.npy").unlink(), "No such file"),
        (lambda folder: (folder / "train.tokens.npy").write_bytes(b""), ""),
        (lambda folder: np.save(folder / "train.tokens.npy", np.zeros(3, np.uint16)), "train has 3 tokens"),
        (damage_version, "format_version=99 must be 3"),
    ],
)
def test_a_damaged_folder_is_refused(text, tmp_path, damage, why):
    cfg = tokenized.Config(path=str(text), **CONFIG)
    tokenized.prepare(cfg, tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(ValueError, match=f"must be a whole folder of tokenised text .*{why}.*delete it"):
        tokenized.prepare(cfg, tmp_path / "data")
