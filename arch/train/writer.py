"""Metrics as they happen: a line of JSON for scripts, an event file for TensorBoard.

    WORKDIR/metrics.jsonl     {"step": 20, "train/loss": 2.31, ...}     numbers, one object a line
    WORKDIR/texts.jsonl       {"step": 20, "sample": "..."}             texts, likewise
    WORKDIR/tensorboard/      the same as event files; hyperparameters, images and histograms too

The names of the methods are those of clu's metric writers. A line goes to the operating system as soon as it is
written, so a killed process loses at most the line it was writing. JSON knows no NaN: a non-finite number is null.
"""

import json
import math
import os
import pathlib
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from arch.train.histograms import EDGES, Histogram

_FLUSH_SECONDS = 5.0


class Writer:
    """Writes the metrics of one run; where it is not enabled (all processes but the first), does nothing.

    Args:
      workdir: the run's folder, created if absent.
      enabled: whether to write at all: `jax.process_index() == 0`.
      resume_step: the step that the run continues from. What was written for later steps is dropped from all files, so
        that no point appears twice; with -1 that is everything, for the run starts afresh.

    Raises:
      OSError: the folder cannot be written, with its path; so does each method, for instance when the disk is full.
    """

    def __init__(self, workdir, *, enabled: bool = True, resume_step: int = -1):
        self._enabled = enabled
        if not enabled:
            return
        workdir = pathlib.Path(workdir)
        folder = workdir / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("events.out.tfevents.*"):
            drop_later_events(file, resume_step)
        self._lines = {}
        for name in ("metrics.jsonl", "texts.jsonl"):
            drop_later_lines(workdir / name, resume_step)
            self._lines[name] = open(workdir / name, "a", encoding="utf-8")
        # Not tensorboardX.SummaryWriter: its thread dies silently on a full disk and the queue to it then blocks.
        # The suffix keeps two starts within one second apart, and in order.
        self._folder = folder
        self._events = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
        self._flushed = time.monotonic()
        # A TensorBoard that is watching has the dropped points in memory: this tells it to forget them.
        self._event(resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers by name, e.g. `{'train/loss': 2.31}`: Python's, NumPy's, or JAX arrays of one value."""
        if not self._enabled:
            return
        values = {name: np.asarray(value).item() for name, value in scalars.items()}
        self._line("metrics.jsonl", step, {k: v if math.isfinite(v) else None for k, v in values.items()})
        for name, value in values.items():
            # Not summary.scalar, which warns of every number that is not finite.
            self._event(step, summary=Summary(value=[Summary.Value(tag=name, simple_value=float(value))]))
        self._flush_now_and_then()

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts by name. TensorBoard renders them as Markdown, so samples are best put in a code block."""
        if not self._enabled:
            return
        self._line("texts.jsonl", step, dict(texts))
        for name, text in texts.items():
            self._event(step, summary=summary.text(name, text))
        self._flush_now_and_then()

    def write_histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Writes distributions of values by name, for TensorBoard only."""
        if not self._enabled:
            return
        for name, counted in histograms.items():
            (used,) = np.nonzero(counted.counts)
            first, last = used[0], used[-1] + 1  # an empty bin in front tells the lower limit of the first
            limits = np.append(EDGES, np.finfo(np.float64).max)
            part = summary.histogram_raw(
                name,
                min=float(counted.smallest),
                max=float(counted.largest),
                num=int(np.sum(counted.counts)),
                sum=float(counted.total),
                sum_squares=float(counted.squares),
                bucket_limits=[limits[first - 1] if first else -limits[-1], *limits[first:last]],
                bucket_counts=[0, *counted.counts[first:last].tolist()],
            )
            self._event(step, summary=part)
        self._flush_now_and_then()

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images by name, for TensorBoard only: [h w 3] uint8 each."""
        if not self._enabled:
            return
        for name, pixels in images.items():
            height, width, channels = pixels.shape
            image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(pixels))
            self._event(step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))
        self._flush_now_and_then()

    def write_hparams(self, hparams: Mapping[str, Any], metrics: Iterable[str] = ()) -> None:
        """Writes hyperparameters for TensorBoard's HPARAMS tab.

        Args:
          hparams: a config as a nested dict; leaves get their path as name (`mesh.data`), tuples become text.
          metrics: names of the scalars to compare runs by, which are written elsewhere: the tab shows their last
            values, by the names that the first such call gives.
        """
        if not self._enabled:
            return
        table, start, _ = summary.hparams(dict(_leaves(hparams)), dict.fromkeys(metrics, 0.0))
        self._event(0, summary=start)
        if metrics:
            self._event(0, summary=table)
        self.flush()

    def flush(self) -> None:
        """Brings everything onto the disk: to be called before a checkpoint, so that none is ahead of its metrics."""
        if self._enabled:
            with _named(self._folder):
                self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._enabled:
            self._enabled = False
            for stream in self._lines.values():
                stream.close()
            with _named(self._folder):
                self._events.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, name: str, step: int, fields: dict):
        with _named(self._lines[name].name):
            line = json.dumps({"step": int(step)} | fields, allow_nan=False, ensure_ascii=False)
            self._lines[name].write(line + "\n")
            self._lines[name].flush()

    def _event(self, step: int, **content):
        with _named(self._folder):
            self._events.write_event(Event(step=int(step), wall_time=time.time(), **content))

    def _flush_now_and_then(self):
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()


def png(pixels: np.ndarray) -> bytes:
    """A PNG file (ISO/IEC 15948) of [h w 3] uint8 pixels."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0: none

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, three channels
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def drop_later_lines(file: pathlib.Path, step: int) -> None:
    """Removes from a file of JSON lines those with a step above `step`, and a line cut short; all or nothing."""
    if not file.exists():
        return
    _replace(file, [line for line in file.read_bytes().splitlines(keepends=True) if _step_of(line) <= step])


def drop_later_events(file: pathlib.Path, step: int) -> None:
    """Removes from an event file what has a step above `step`, and a record cut short; all or nothing.

    A record is its length (8 bytes), the length's checksum (4), a serialized Event, and its checksum (4). The first
    one holds the file's version. TensorBoard itself does not forget texts when told of a restart.
    """
    data, kept, start = file.read_bytes(), [], 0
    while start + 8 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 8 + 4 + length + 4
        if end > len(data):
            break
        if start == 0 or Event.FromString(data[start + 12 : end - 4]).step <= step:
            kept.append(data[start:end])
        start = end
    _replace(file, kept)


def _replace(file: pathlib.Path, parts: list[bytes]) -> None:
    temporary = file.with_name(".rewriting")  # TensorBoard reads any file with "tfevents" in its name
    temporary.write_bytes(b"".join(parts))
    os.replace(temporary, file)


def _step_of(line: bytes) -> int | float:
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _leaves(tree: Mapping, path: str = ""):
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value if isinstance(value, (bool, int, float, str)) else str(value)


class _named:
    """Gives an OSError of a write, which does not know the file's name, that name."""

    def __init__(self, path):
        self._path = str(path)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, self._path) from error
