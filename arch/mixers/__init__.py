"""Sublayers that mix along the sequence: one idea a file."""
