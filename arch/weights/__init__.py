"""Published checkpoints in and out: found, checked whole, streamed onto any mesh, and written again."""
