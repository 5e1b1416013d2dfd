"""What the metadata and tensor names of a GGUF file mean, in the words of transformers' config.json and checkpoints.

Every key of the architecture is read or known to change nothing; any other raises, and so does any tensor without a
name here.
"""

from typing import Any

from arch.data.gguf_header import Header
from arch.weights import gguf_llama, gguf_plain
from arch.weights.gguf_view import View

ARCHITECTURES = {
    "llama": gguf_llama.read,
    "gpt2": gguf_plain.gpt2,
    "bloom": gguf_plain.bloom,
    "mamba": gguf_plain.mamba,
}
"""What `general.architecture` may be."""


def read(header: Header) -> tuple[dict[str, Any], dict[str, View]]:
    """The config's attributes, and each published tensor's place in the file.

    Raises:
      ValueError: the architecture, a key of it, or a tensor is not known.
    """
    name = header.metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(f"{header.path}: general.architecture={name!r} must be one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](header)
