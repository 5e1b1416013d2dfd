"""The fields of a serialised `tf.train.Example`, as ArrayRecord files often hold them, without TensorFlow.

In protocol buffers' wire format, where `n = t` is field n of kind t: Example {1 = Features}, Features {1 = entry*},
entry {1 = name, 2 = Feature}, Feature {1 = BytesList, 3 = Int64List}, BytesList {1 = bytes*}, Int64List {1 = packed
varints}. Features of floats, and integers that are not packed, are left out.
"""

from collections.abc import Iterator


def parse(record: bytes) -> dict[str, list[bytes] | list[int]]:
    """The values of the features of bytes or of integers, by name.

    Raises:
      ValueError: the record is no such message.
    """
    found = {}
    for features in _fields(record, 1):
        for entry in _fields(features, 1):
            (name,) = _fields(entry, 1)
            feature = b"".join(_fields(entry, 2))
            values = [value for each in _fields(feature, 1) for value in _fields(each, 1)]
            packed = (run for each in _fields(feature, 3) for run in _fields(each, 1))
            values = values or [number for run in packed for number in _varints(run)]
            if values:
                found[name.decode()] = values
    return found


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The values of the fields of this number that have a length."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("the record must be a tf.train.Example, or data.field='' if it is the text itself")
            if number == wanted:
                yield message[at : at + length]
            at += length
        else:
            raise ValueError("the record must be a tf.train.Example, or data.field='' if it is the text itself")


def _varints(message: bytes) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value - 2**64 if value >= 2**63 else value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError("the record must be a tf.train.Example, or data.field='' if it is the text itself")
