"""Architectures, one readable file each."""
