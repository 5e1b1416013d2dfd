"""Kernels written for one kind of device, each with the signature of its reference in `arch.ops`."""
