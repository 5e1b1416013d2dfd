"""What tests against a peer's package have in common: its rows packed in one, and its checkpoint given back."""

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from arch.layers.contract import Context
from arch.weights import pretrained
from arch.weights.export import export


def packed(rows):
    """(tokens [1 t], context) of rows of ids, one behind the other in one."""
    lengths = [len(row) for row in rows]
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    segments = np.repeat(np.arange(len(lengths)) + 1, lengths)[None]
    context = Context(positions=jnp.asarray(positions), segment_ids=jnp.asarray(segments))
    return jnp.asarray(np.concatenate(rows))[None], context


def assert_logits(config, params, rows, expected):
    """The logits of the packed rows, within 3e-5 of the largest, see `tests.parity.test_families.TOLERANCE`."""
    run = jax.jit(lambda params, tokens, context: config.make().apply({"params": params}, tokens, context).x[0])
    np.testing.assert_allclose(run(params, *packed(rows)), expected, rtol=0, atol=3e-5 * np.abs(expected).max())


def assert_given_back(config, params, tensors, folder):
    """Export writes these tensors, and what reading them gives is the same config and parameters."""
    export(config, params, folder)
    written = load_file(folder / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(np.array_equal(written[tensor], value) for tensor, value in tensors.items())
    again, twice = pretrained.load(folder)
    assert again == config
    assert jax.tree.all(jax.tree.map(np.array_equal, params, twice))
