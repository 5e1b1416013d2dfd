"""Sublayers that mix along the channels: one idea a file."""
