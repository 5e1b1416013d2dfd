"""Splash, as it is called here, is the dense reference in its interpreter; what it costs is told to whoever counts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.kernels import cost
from arch.kernels.fused_attention import splash
from arch.layers.contract import Context
from arch.mixers import _attend, attention
from arch.ops.attention import attend, attention_mask
from arch.plan.program import flops, hlo

LENGTH, CHANNELS = 150, 128


def arrays(dtype=jnp.float32):
    draw = np.random.default_rng(0).standard_normal
    return [jnp.asarray(draw((2, LENGTH, n, CHANNELS)), dtype) for n in (2, 1, 1)]


def gradients(function):
    """Of a sum that depends on each entry in its own way, by query, key and value."""
    weights = jnp.cos(jnp.arange(LENGTH * 2 * CHANNELS, dtype=jnp.float32)).reshape(LENGTH, 2, CHANNELS)
    loss = lambda *operands: jnp.sum(weights * function(*operands))
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays())


SIGHTS = {
    "all before, by documents": dict(window=0, soft_cap=3.0, documents=True),
    "a window": dict(window=40, soft_cap=0.0, documents=False),
}


CASES = [pytest.param(name, marks=[pytest.mark.slow] * bool(i)) for i, name in enumerate(SIGHTS)]


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_dense_reference_in_rows_that_no_block_fills(name):
    window, cap, documents = SIGHTS[name].values()
    places = jnp.arange(LENGTH)[None]
    segments = jnp.tile(1 + places // 60, (2, 1)) if documents else None
    mask = attention_mask(places, places, causal=True, window=window, query_segments=segments, key_segments=segments)
    how = dict(scale=0.2, soft_cap=cap)
    found = gradients(lambda *a: splash.attend(*a, window=window, segments=segments, interpret=True, **how))
    expected = gradients(lambda *a: attend(*a, mask=mask, **how))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_model_on_a_tpu_calls_it_and_tells_its_cost(monkeypatch):
    monkeypatch.setattr(_attend, "device_kind", lambda: "TPU v5p")
    cfg = attention.Config(num_heads=2, num_kv_heads=1, head_dim=CHANNELS)
    read = Context(positions=jnp.tile(jnp.arange(LENGTH), (2, 1)))
    loss = lambda *operands: _attend.attend_tokens(cfg, *operands, None, None, read).astype(jnp.float32).sum()
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays(jnp.bfloat16))
    text = program.lower(lowering_platforms=("tpu",)).as_text(debug_info=True)
    pairs = 2 * 2 * 256 * 256  # rows, heads, one block
    for kind, products in (("fwd", 2), ("dq", 3), ("dkv", 4)):
        assert f"splash_mha_{kind}" in text
        assert f"._{kind}-{2 * CHANNELS * pairs * products}-{pairs}-" in text


def test_layers_that_share_a_kernel_each_tell_its_cost(monkeypatch):
    """The paths of a function that is called several times are not those of its calls."""
    monkeypatch.setattr(_attend, "device_kind", lambda: "TPU v5p")
    cfg = attention.Config(num_heads=2, num_kv_heads=1, head_dim=CHANNELS)
    read = Context(positions=jnp.tile(jnp.arange(LENGTH), (2, 1)))
    layer = lambda query, key, value: _attend.attend_tokens(cfg, query, key, value, None, None, read)
    twice = lambda query, *others: layer(layer(query, *others), *others)
    text = jax.jit(twice).trace(*arrays(jnp.bfloat16)).lower(lowering_platforms=("tpu",)).as_text(debug_info=True)
    paths = re.findall(r'loc\("([^"]*)/pallas_call"', text)
    assert len(paths) >= 2 and all("cost._fwd-" in path for path in paths)


CALL = """
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %splash_mha_dq_no_residuals.1 = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/transpose(jvp(cost._fwd-1-2-3._dq-40-50-60))/pallas_call"}, backend_config={}
}
"""


def test_a_told_cost_is_read_from_the_compiled_program():
    program = hlo.parse(CALL)
    (computation,) = program.computations.values()
    call = computation["splash_mha_dq_no_residuals.1"]
    assert flops.declared(call) == {"flops": 40, "transcendentals": 50, "bytes_accessed": 60}
    assert flops.of(program, computation, call) == (40, 50)
    assert cost.of("another_kernel", call.path) == {}
