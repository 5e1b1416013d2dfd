"""Linear attention with a decay a head: which implementation, and kernels for TPU and Hopper."""
