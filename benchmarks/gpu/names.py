"""The parts, in the order in which they run when time is short, and the environment of each one's processes."""

NO_GPU = 3
"""The exit status of a part where there is none."""
BROKEN = 4
"""And where the device answers no more, so that only another process can go on: behind a piece, which is kept."""
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""JAX and torch have turns on the same device."""
WHOLE = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
PARTS = {
    "correctness": SHARED,
    "dense_attention": SHARED,
    "sparse_attention": SHARED,
    "recurrences": SHARED,
    "grouped_matmul": SHARED,
    "training": WHOLE,
    "speed": WHOLE,
    "decoding": SHARED,
}
