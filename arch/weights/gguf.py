"""GGUF files: weights in blocks of a few bits, with the model's config and vocabulary in the same file.

`gguf_header` reads where everything lies and holds it against the file's size; `gguf_architectures` says what the
metadata and the tensors' names mean in the words of transformers; the `gguf` library (the ggml authors) dequantises.
A tensor is dequantised when it is read, a few rows at a time, from the mapped file.
"""

import math
import pathlib

import gguf
import numpy as np

from arch.data import gguf_header
from arch.weights import gguf_architectures
from arch.weights.source import Tensor

CHUNK = 2**20
"""Values dequantised at a time: the library needs three times their memory."""


class GGUF:
    """A `Source` (see there) of one GGUF file; all its tensors are read as float32."""

    def __init__(self, header: gguf_header.Header):
        self.path = pathlib.Path(header.path)
        self.metadata = header.metadata
        self._header = header
        self.attributes, self._views = gguf_architectures.read(header)
        stored = {name: header.tensors[view.name].shape for name, view in self._views.items()}
        self.tensors = {name: Tensor(view.shape(stored[name]), "float32") for name, view in self._views.items()}

    def read(self, name: str) -> np.ndarray:
        """The value of one tensor, float32."""
        view = self._views[name]
        tensor = self._header.tensors[view.name]
        shape, begin, num_bytes = tensor.shape, tensor.offset, tensor.num_bytes
        if view.expert >= 0:
            num_bytes //= shape[0]
            shape, begin = shape[1:], begin + view.expert * num_bytes
        blocks = np.frombuffer(self._header.data, np.uint8, num_bytes, begin)
        return view.arranged(dequantized(blocks, tensor.kind, shape))


def open_gguf(path) -> GGUF:
    """Opens a file and checks everything but the values.

    Raises:
      ValueError: it cannot be read, is damaged, of an unknown architecture, or holds a tensor in a format that cannot
        be dequantised; the file and the reason are named.
    """
    try:
        header = gguf_header.read(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    for name, tensor in header.tensors.items():
        if not readable(tensor.kind):
            raise ValueError(f"{path}: {name} is of type {tensor.kind.name}, which cannot be dequantised")
    return GGUF(header)


def readable(kind: gguf.GGMLQuantizationType) -> bool:
    """Whether the library dequantises this block format."""
    try:
        gguf.quants.dequantize(np.zeros((1, math.lcm(4, gguf.GGML_QUANT_SIZES[kind][1])), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def dequantized(blocks: np.ndarray, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a tensor.

    Args:
      blocks: uint8, its bytes.
      kind: their format.
      shape: of the tensor, the innermost axis last.

    Returns:
      float32 of this shape.
    """
    rows = blocks.reshape(math.prod(shape[:-1]), -1)
    out = np.empty((rows.shape[0], shape[-1]), np.float32)
    step = max(1, CHUNK // shape[-1])
    for start in range(0, len(rows), step):
        with np.errstate(over="ignore", invalid="ignore"):  # of hostile scales; the loader refuses what is not finite
            out[start : start + step] = gguf.quants.dequantize(rows[start : start + step], kind)
    return out.reshape(shape)
