"""The selective scan of Mamba-1: which implementation, and kernels for TPU and Hopper GPUs."""
