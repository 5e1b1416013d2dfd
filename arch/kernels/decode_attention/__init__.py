"""Attention of a few new tokens to what a cache holds."""
