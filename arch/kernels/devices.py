"""Kinds of devices, by the names that JAX gives them: 'cpu', 'TPU v5 lite', 'NVIDIA H200' ..."""

import re


def is_tpu(device_kind: str) -> bool:
    """Whether it is a TPU."""
    return device_kind.lower().startswith("tpu")


def is_hopper(device_kind: str) -> bool:
    """Whether it is a GPU of the Hopper generation, which the Mosaic GPU kernels are written for."""
    return re.search(r"\bG?H(20|100|200|800)\b", device_kind) is not None
