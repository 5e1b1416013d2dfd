"""Patterns of attention that a config may name: each file's `Config` makes one of `arch.ops.patterns`."""
