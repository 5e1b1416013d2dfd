"""Attention among the tokens of a row in one kernel, where no pattern is asked for."""
