"""Files of records, a document each: JSON lines, Parquet, Arrow and ArrayRecord, read a few records at a time.

A record of an ArrayRecord is a `tf.train.Example`, whose features are texts, integers or lists of them, or, when it
holds more than that, an object of JSON; or it is a bare text.

JSON lines need nothing but Python, ArrayRecord what Grain brings; Parquet and Arrow (what `save_to_disk` of the
`datasets` library writes) need the library pyarrow, `pip install 'arch-jax[data]'`.
"""

import contextlib
import gzip
import importlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

from arch.data import tf_example

FORMS = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".array_record": "array_record",
    ".arrayrecord": "array_record",
}
"""Endings of files that hold records, and their form."""

AT_ONCE = 256
"""Records that are in memory together, where the file's own groups do not decide it."""


def form(name: str) -> str:
    """The form of a file's records, by its ending; '' for a file of text."""
    return next((form for suffix, form in FORMS.items() if name.endswith(suffix)), "")


def is_saved(folder: str | os.PathLike) -> bool:
    """Whether the `datasets` library saved this folder."""
    return any((pathlib.Path(folder) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved_files(folder: str | os.PathLike) -> list[str]:
    """The names of the Arrow files of a folder that the `datasets` library saved, in its order.

    Raises:
      ValueError: the folder holds several splits, or its list of files is damaged.
    """
    folder = pathlib.Path(folder)
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(file.parent.name for file in folder.glob("*/state.json"))
        raise ValueError(f"data.path={str(folder)!r} must be the folder of one split: it holds {', '.join(splits)}")
    try:
        return [entry["filename"] for entry in json.loads((folder / "state.json").read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder / 'state.json')!r} must list the data set's files ({error!r})") from None


def read(
    path: str | os.PathLike, form: str, fields: Mapping[str, str], *, lists: bool = False
) -> Iterator[tuple]:
    """The values of these fields in a file's records, in the file's order.

    Args:
      path: the file.
      form: 'jsonl', 'parquet', 'arrow' or 'array_record'.
      fields: the names of the fields by the leaf of the config that says them; a single '' for an ArrayRecord whose
        records are the value themselves.
      lists: the values are lists, which a feature of an ArrayRecord with a single value does not say.

    Raises:
      ValueError: a file that is damaged or of another form, or a record without a field, named by its number; or
        the form needs a library that is not installed.
    """
    for leaf, field in fields.items():
        if not field and (form != "array_record" or len(fields) > 1):
            raise ValueError(f"data.{leaf}='' must name a field of the records of {str(path)!r}")
    if form == "array_record":
        return _array_record(str(path), fields, lists)
    return {"jsonl": _jsonl, "parquet": _parquet, "arrow": _arrow}[form](str(path), fields)


def _jsonl(path: str, fields: Mapping[str, str]):
    number = 0
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file):
                if line.strip():
                    yield _values(json.loads(line), fields, path, number)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path!r} must hold a JSON object a line: line {number + 1} is none ({error})") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path!r} must be a whole gzip file ({error})") from None


def _values(record, fields: Mapping[str, str], path: str, number: int) -> tuple:
    for leaf, field in fields.items():
        if not isinstance(record, dict) or field not in record:
            held = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise ValueError(f"{path!r}: data.{leaf}={field!r} must be in each record: record {number} holds {held}")
    return tuple(record[field] for field in fields.values())


def _parquet(path: str, fields: Mapping[str, str]):
    parquet = _library("pyarrow.parquet")
    with _whole(path, "Parquet"), parquet.ParquetFile(path) as file:
        _must_name(fields, file.schema_arrow.names, path)
        for batch in file.iter_batches(batch_size=AT_ONCE, columns=list(fields.values())):
            yield from zip(*(batch.column(field).to_pylist() for field in fields.values()))


def _arrow(path: str, fields: Mapping[str, str]):
    arrow = _library("pyarrow")
    with _whole(path, "Arrow"), arrow.memory_map(path) as file:
        random_access = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = arrow.ipc.open_file(file) if random_access else arrow.ipc.open_stream(file)
        _must_name(fields, reader.schema.names, path)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if random_access else reader
        for batch in batches:
            yield from zip(*(batch.column(field).to_pylist() for field in fields.values()))


def _array_record(path: str, fields: Mapping[str, str], lists: bool):
    module = _library("array_record.python.array_record_module")
    with _whole(path, "ArrayRecord"):
        reader = module.ArrayRecordReader(path)
        count = reader.num_records()
        if not count and os.path.getsize(path):
            raise ValueError("it has no index at its end")
        for first in range(0, count, AT_ONCE):
            for number, record in enumerate(reader.read(list(range(first, min(first + AT_ONCE, count)))), first):
                bare = not any(fields.values())
                yield (record.decode(),) if bare else _values(_features(record, lists), fields, path, number)


def _features(record: bytes, lists: bool) -> dict:
    """The fields of a JSON object or an Example; of one value a feature is that value, unless it shall be a list."""
    if record.startswith(b"{"):  # no Example does
        return json.loads(record)
    found = {}
    for name, values in tf_example.parse(record).items():
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
        found[name] = values[0] if len(values) == 1 and not lists else values
    return found


@contextlib.contextmanager
def _whole(path: str, form: str):
    """Errors of a library that reads a damaged file, as ValueErrors that name the file."""
    try:
        yield
    except (ValueError, RuntimeError, OSError, IndexError) as error:
        if str(error).startswith((f"{path!r}", "data.")):
            raise
        raise ValueError(f"{path!r} must be a whole {form} file ({error})") from None


def _must_name(fields: Mapping[str, str], names: list[str], path: str) -> None:
    for leaf, field in fields.items():
        if field not in names:
            raise ValueError(f"data.{leaf}={field!r} must be a column of {path!r}, which holds {', '.join(names)}")


def _library(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library, extra = name.split(".")[0], "arch-jax[data]"
        raise ValueError(f"data.path needs the library {library} ({error}): pip install '{extra}'") from None
