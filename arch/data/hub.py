"""Documents of a data set of the Hugging Face hub, streamed by the `datasets` library.

Which documents come, and in which order, is the hub's: the stream itself is not shard-invariant, and two reads of it
may differ. So `tokenized.prepare` reads it once, in one process, and what it wrote is from then on the same for every
shard; `max_bytes` says how much to read.
"""

import logging
from collections.abc import Iterator, Mapping

PREFIX = "hf://"
log = logging.getLogger("arch")


def read(path: str, fields: Mapping[str, str]) -> Iterator[tuple]:
    """The values of these fields in the split 'train' of a data set.

    Args:
      path: 'hf://OWNER/NAME', or 'hf://OWNER/NAME#SUBSET'; the prefix may be left out.
      fields: the columns by the leaf of the config that says them.

    Raises:
      ValueError: the `datasets` library is not installed, the data set cannot be reached, or it lacks the column.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data.path={path!r} needs datasets ({error}): pip install 'arch-jax[hub]'") from None
    log.info("%s is streamed: its order is the hub's, not shard-invariant until it is tokenised", path)
    name, _, subset = path.removeprefix(PREFIX).partition("#")
    try:
        for row in datasets.load_dataset(name, subset or None, split="train", streaming=True):
            for leaf, field in fields.items():
                if field not in row:
                    raise ValueError(f"data.{leaf}={field!r} must be one of its columns: {', '.join(row)}")
            yield tuple(row[field] for field in fields.values())
    except Exception as error:  # of the network, the hub and a dozen readers
        raise ValueError(f"data.path={path!r} cannot be read from the hub ({error})") from error
