"""WKV of RWKV-4: which implementation, and kernels for TPU and Hopper GPUs."""
