"""Checksums of a checkpoint's files, so that damage is found, and named, before anything is restored.

Orbax's own checks cover the index of its store, not the arrays: a flipped bit in an array chunk is restored without a
word (found by flipping bits in every file of a checkpoint of Orbax 0.12.8). `seal` therefore records the size and the
CRC-32 of each file before the checkpoint gets its final name, and `damage` compares.
"""

import concurrent.futures
import json
import pathlib
import zlib

NAME = "checksums.json"
_BLOCK = 1 << 20


def seal(directory: pathlib.Path, items: tuple[str, ...]) -> None:
    """Writes `directory/checksums.json`: the size in bytes and the CRC-32 of every file below the folders `items`."""
    files = [file for item in items for file in sorted((directory / item).rglob("*")) if file.is_file()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = pool.map(_crc32, files)
    table = {f.relative_to(directory).as_posix(): [f.stat().st_size, s] for f, s in zip(files, sums, strict=True)}
    (directory / NAME).write_text(json.dumps(table))


def damage(directory: pathlib.Path) -> str:
    """The first difference between a sealed folder and its checksums, naming the file; '' if it is whole."""
    try:
        table = json.loads((directory / NAME).read_text())
        for name, (size, _) in table.items():
            if (directory / name).stat().st_size != size:
                return f"{name} has {(directory / name).stat().st_size} bytes and should have {size}"
        with concurrent.futures.ThreadPoolExecutor() as pool:
            sums = pool.map(lambda name: _crc32(directory / name), table)
            for (name, (_, crc)), found in zip(table.items(), sums, strict=True):
                if found != crc:
                    return f"{name} has CRC-32 {found:08x} and should have {crc:08x}"
    except FileNotFoundError as error:
        return f"{pathlib.Path(error.filename).relative_to(directory).as_posix()} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, TypeError, AttributeError):
        return f"{NAME} is damaged"
    return ""


def _crc32(file: pathlib.Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
