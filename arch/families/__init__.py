"""The published model families: what is new, the composition, the sizes, the names of their weights. One file each."""
