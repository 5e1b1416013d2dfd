"""Grouped matrix product: which implementation, and those that are no plain arithmetic."""
