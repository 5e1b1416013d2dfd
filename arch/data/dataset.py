"""Batches through Grain, whose only state is the global step.

Batch g holds the global samples g B, ..., g B + B - 1 for a batch size B; shard s of n reads its contiguous B / n rows
of each. So all shards side by side are the same stream for every n, and a run resumes from any step on any n.
"""

import grain
import numpy as np

from arch.data import mixture, packing
from arch.data.tokenized import Config, Tokenized, all_valid, load, prepare

__all__ = ["Config", "Tokenized", "all_valid", "batches", "load", "make", "prepare"]

MAX_SAMPLES = 2**31 - 1
"""Samples in the endless training stream: what the int32 `ids` can count."""


class _Batches:
    """One shard's rows of each global batch, by step: the random-access source that Grain reads."""

    def __init__(self, packed: packing.Packed | mixture.Mixture, *, num_samples: int, batch_size: int, rows: range):
        self._packed, self._num_samples, self._batch_size, self._rows = packed, num_samples, batch_size, rows

    def __len__(self):
        return -(-self._num_samples // self._batch_size)

    def __getitem__(self, step):
        ids = [int(step) * self._batch_size + row for row in self._rows]
        samples = [self._packed[i] for i in ids]
        batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
        return batch | {"ids": np.array([i if i < self._num_samples else -1 for i in ids], np.int32)}


def make(
    tokenized: Tokenized,
    split: str,
    *,
    batch_size: int,
    seq_len: int,
    seed: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.MapDataset:
    """One shard's batches of a split by global step.

    Args:
      tokenized: the opened corpus.
      split: 'train', shuffled anew each epoch and endless (2^31 - 1 samples); or 'valid', one pass in order.
      batch_size: samples in a global batch, over all shards.
      seq_len: tokens in a sample.
      seed: of the training order.
      shard_index: which rows, 0 to `shard_count` - 1.
      shard_count: shards that read side by side.

    Returns:
      Step to a dict of `tokens`, `targets`, `segment_ids`, `positions` (int32) and `weights` (float32), all
      [batch_size / shard_count, seq_len] as `packing.Packed` defines them, and the global sample `ids`, int32
      [batch_size / shard_count]. Rows behind the last sample of 'valid' are padding, with id -1.

    Raises:
      ValueError: a batch that the shards cannot share, or a split shorter than a sample.
    """
    if batch_size % shard_count:
        raise ValueError(f"batch_size={batch_size} must be a multiple of shard_count={shard_count}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index={shard_index} must be at least 0 and below shard_count={shard_count}")
    packed = _packed(tokenized, split, seq_len=seq_len, seed=seed)
    num_samples = MAX_SAMPLES // batch_size * batch_size if split == "train" else packed.samples_per_epoch
    size = batch_size // shard_count
    rows = range(shard_index * size, (shard_index + 1) * size)
    return grain.MapDataset.source(_Batches(packed, num_samples=num_samples, batch_size=batch_size, rows=rows))


def epoch_samples(tokenized: Tokenized, *, seq_len: int) -> int:
    """Samples of an epoch of training (of validation where there is nothing to train on).

    Raises:
      ValueError: the split is shorter than a sample.
    """
    split = "train" if "train" in tokenized.splits else "valid"
    return _packed(tokenized, split, seq_len=seq_len, seed=0).samples_per_epoch


def _packed(tokenized: Tokenized, split: str, *, seq_len: int, seed: int) -> packing.Packed | mixture.Mixture:
    """A split's samples by index; for training on several sources, mixed by their weights."""
    whole = tokenized.splits[split]
    tokens, offsets, counts = whole.tokens, whole.offsets, whole.sources
    if split != "train":
        return _checked(tokens, offsets, split, seq_len=seq_len, shuffled=False)
    if len(counts) == 1:
        return _checked(tokens, offsets, split, seq_len=seq_len, seed=seed, shuffled=True)
    sources, ends = [], np.cumsum(counts)
    for i, (first, last) in enumerate(zip(ends - counts, ends)):
        part = tokens[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first]
        source_seed = mixture.source_seed(seed, i)
        sources.append(_checked(*part, f"{split}, mixture[{i}]", seq_len=seq_len, seed=source_seed, shuffled=True))
    weights = [part["weight"] for part in tokenized.meta["config"]["mixture"]]
    return mixture.Mixture(sources, weights, seed=seed)


def _checked(tokens, offsets, name: str, **how) -> packing.Packed:
    try:
        return packing.Packed(tokens, offsets, **how)
    except ValueError as error:
        raise ValueError(f"{error} ({name})") from None


def batches(dataset: grain.MapDataset, start_step: int = 0, *, num_threads: int = 2, ahead: int = 4):
    """An iterator over `dataset[start_step]`, `dataset[start_step + 1]`, ..., read ahead by threads.

    Args:
      dataset: what `make` returned.
      start_step: steps already taken.
      num_threads: threads that read; no process is started.
      ahead: batches kept ready.
    """
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    return iter(dataset[start_step:].to_iter_dataset(options))


def without_ids(rows: dict) -> dict:
    """What of a batch goes to the devices: all but the sample ids."""
    return {name: value for name, value in rows.items() if name != "ids"}
