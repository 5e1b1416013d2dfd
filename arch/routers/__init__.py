"""Routers of a mixture of experts: one idea a file, chosen by name; the mathematics is in `arch.ops.routing`."""
