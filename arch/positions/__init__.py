"""Position schemes: one idea a file."""
