"""The road: experiment, state, step, checkpoints, metrics, loop."""
