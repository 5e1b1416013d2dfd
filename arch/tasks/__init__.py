"""Tasks, one a file: what a run learns of its text (`arch.data.task`)."""
