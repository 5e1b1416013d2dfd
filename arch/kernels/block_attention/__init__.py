"""Flash attention over a map of non-empty blocks: kernels for TPU and for Hopper GPUs, and the choice between them."""
