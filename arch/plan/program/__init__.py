"""What the program that XLA compiled takes of each device: read from its own text, no device needed."""
