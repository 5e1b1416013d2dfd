"""Grouped matrix product, by the implementation that suits the device."""
