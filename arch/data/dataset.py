"""Batches through Grain, whose only state is the global step.

Batch g holds the global samples g B, ..., g B + B - 1 for a batch size B; shard s of n reads its contiguous B / n rows
of each. So all shards side by side are the same stream for every n, and a run resumes from any step on any n.
"""

import pathlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from arch.data import mixture, packing, token_files
from arch.data.tokenized import Config, Tokenized, all_valid, load, prepare

__all__ = ["Config", "Tokenized", "all_valid", "batches", "load", "make", "prepare"]

MAX_SAMPLES = 2**31 - 1
"""Samples in the endless training stream: what the int32 `ids` can count."""


@runtime_checkable
class Samples(Protocol):
    """Samples by their global index, each a dict of arrays of the same names, types and shapes.

    A sample is a function of its index (and of a seed) alone: so the stream is the same on any number of shards, and
    from any step on.

    Attributes:
      endless: whether there is no last index; a split of training begins its epochs anew.
      samples_per_epoch: how many there are, of an endless one in an epoch.
    """

    endless: bool
    samples_per_epoch: int

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


class _Batches:
    """One shard's rows of each global batch, by step: the random-access source that Grain reads."""

    def __init__(self, samples: Samples, *, num_samples: int, batch_size: int, rows: range):
        self._samples, self._num_samples, self._batch_size, self._rows = samples, num_samples, batch_size, rows

    def __len__(self):
        return -(-self._num_samples // self._batch_size)

    def __getitem__(self, step):
        ids = [int(step) * self._batch_size + row for row in self._rows]
        samples = [self._samples[i] if i < self._num_samples else self._padding() for i in ids]
        batch = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
        return batch | {"ids": np.array([i if i < self._num_samples else -1 for i in ids], np.int32)}

    def _padding(self):
        return {name: np.zeros_like(array) for name, array in self._samples[0].items()}


class Mapped:
    """Samples that are made of other samples, one of one.

    Args:
      samples: the others.
      function: of a sample and its index.
    """

    def __init__(self, samples: Samples, function: Callable[[dict, int], dict]):
        self._samples, self._function = samples, function
        self.endless, self.samples_per_epoch = samples.endless, samples.samples_per_epoch

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._function(self._samples[index], index)

    def origin(self, index: int) -> dict:
        """What the samples that these are made of tell of where one comes from; {} if nothing."""
        return getattr(self._samples, "origin", lambda _: {})(index)


def make(samples: Samples, *, batch_size: int, shard_index: int = 0, shard_count: int = 1) -> grain.MapDataset:
    """One shard's batches by global step.

    Args:
      samples: an endless one is read for 2^31 - 1 samples, another once.
      batch_size: samples in a global batch, over all shards.
      shard_index: which rows, 0 to `shard_count` - 1.
      shard_count: shards that read side by side.

    Returns:
      Step to a dict of the samples' arrays, each with a first axis of batch_size / shard_count rows, and the global
      sample `ids`, int32 [batch_size / shard_count]. Rows behind the last sample are zeros, with id -1.

    Raises:
      ValueError: a batch that the shards cannot share.
    """
    if batch_size % shard_count:
        raise ValueError(f"batch_size={batch_size} must be a multiple of shard_count={shard_count}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index={shard_index} must be at least 0 and below shard_count={shard_count}")
    num_samples = MAX_SAMPLES // batch_size * batch_size if samples.endless else samples.samples_per_epoch
    size = batch_size // shard_count
    rows = range(shard_index * size, (shard_index + 1) * size)
    return grain.MapDataset.source(_Batches(samples, num_samples=num_samples, batch_size=batch_size, rows=rows))


def samples(tokenized: Tokenized, split: str, of_source: Callable[..., Samples], *, seed: int = 0) -> Samples:
    """A split's samples by index: of training on several sources, those of each mixed by their weights.

    Args:
      tokenized: the opened corpus.
      split: 'train', shuffled anew each epoch and endless; another is one pass in order.
      of_source: `(part, *, seed, shuffled) -> Samples` of one source, `part` being its `token_files.Split`.
      seed: of the training order.

    Raises:
      ValueError: of_source's, with the name of the source behind it, or a weight too small.
    """
    whole = tokenized.splits[split]
    whole = whole._replace(name=whole.name or split)
    if split != "train":
        return _named(of_source, whole, seed=0, shuffled=False)
    if len(whole.sources) == 1:
        return _named(of_source, whole, seed=seed, shuffled=True)
    parts, made, ends = tokenized.meta["config"]["mixture"], [], np.cumsum(whole.sources)
    for i, (first, last) in enumerate(zip(ends - whole.sources, ends)):
        part = whole.part(int(first), int(last), f"{split}, mixture[{i}] {parts[i]['path']}".rstrip())
        made.append(_named(of_source, part, seed=mixture.source_seed(seed, i), shuffled=True))
    return mixture.Mixture(made, [part["weight"] for part in parts], seed=seed)


def by_source(tokenized: Tokenized) -> dict[str, Tokenized]:
    """Of a mixture the validation split of each source, by what its path is called; {} of a single source."""
    whole, named = tokenized.splits["valid"], {}
    if len(whole.sources) == 1:
        return named
    ends = np.cumsum(whole.sources)
    for i, (first, last) in enumerate(zip(ends - whole.sources, ends)):
        path = tokenized.meta["config"]["mixture"][i]["path"]
        name = pathlib.PurePath(path or "stdlib").name.split(".")[0]
        name = f"{name}-{i}" if name in named or name in tokenized.splits else name
        named[name] = tokenized._replace(splits={"valid": whole.part(int(first), int(last), f"valid, {name}")})
    return named


def packed(tokenized: Tokenized, split: str, *, seq_len: int, seed: int = 0) -> Samples:
    """A split's text in windows of `seq_len` tokens: the `samples` that `packing.Packed` defines.

    Raises:
      ValueError: the split, or a source of it, is shorter than a window.
    """

    def of_source(part: token_files.Split, *, seed: int, shuffled: bool) -> packing.Packed:
        how = dict(seq_len=seq_len, seed=seed, shuffled=shuffled, columns=part.columns)
        return packing.Packed(part.tokens, part.offsets, **how)

    return samples(tokenized, split, of_source, seed=seed)


def _named(of_source: Callable[..., Samples], part: token_files.Split, **how) -> Samples:
    try:
        return of_source(part, **how)
    except ValueError as error:
        raise ValueError(f"{error} ({part.name})") from None


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
