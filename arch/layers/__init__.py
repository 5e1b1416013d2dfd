"""Shells that all architectures share: weights, norms, embeddings, blocks, stacks, and the contract."""
