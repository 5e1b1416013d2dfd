"""Kinds of devices, by the names that JAX gives them: 'cpu', 'TPU v5 lite', 'NVIDIA H200' ..."""

import re


def is_tpu(device_kind: str) -> bool:
    """Whether it is a TPU."""
    return device_kind.lower().startswith("tpu")


def is_hopper(device_kind: str) -> bool:
    """Whether it is a GPU of the Hopper generation, which the Mosaic GPU kernels are written for."""
    return re.search(r"\bG?H(20|100|200|800)\b", device_kind) is not None


def is_nvidia_since_ampere(device_kind: str) -> bool:
    """Whether it is an NVIDIA GPU of compute capability 8.0 or higher: Ampere, Ada, Hopper, Blackwell."""
    names = r"\b(A\d+G?|L4|L20|L40S?|G?H(20|100|200|800)|G?B\d{3}|RTX [345]\d{3}|RTX \d{4} Ada)\b"
    return "NVIDIA" in device_kind and re.search(names, device_kind) is not None
