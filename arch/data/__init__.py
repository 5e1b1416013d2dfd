"""What comes in: text, tokenizers, and batches that are a pure function of the seed and the global sample index."""
