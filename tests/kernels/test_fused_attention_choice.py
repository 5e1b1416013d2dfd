"""Attention of rows without a pattern goes to cuDNN or Splash where they compute it, then to our kernels, or to XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from arch.kernels import compat
from arch.kernels.devices import is_nvidia_since_ampere
from arch.kernels.fused_attention import cudnn
from arch.kernels.fused_attention.choice import choose
from arch.layers.contract import Context
from arch.mixers import _attend, attention
from arch.ops.attention import attend, attention_mask
from arch.ops.chunked_attention import CHUNK
from arch.positions import alibi

BLOCKS = "blocks" if compat.available() else "xla"
H200, A100, TPU = "NVIDIA H200", "NVIDIA A100-SXM4-80GB", "TPU v5p"


@pytest.fixture
def with_cudnn(monkeypatch):
    """JAX believes that there is a GPU of the Hopper generation with cuDNN 9.12, so far that it traces and lowers."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(fused, "check_compute_capability", lambda wanted: True)


@pytest.mark.parametrize(
    ("device_kind", "dtype", "channels", "sight", "beside", "expected"),
    [
        (H200, "bfloat16", (128, 128), (True, 0), (), "cudnn"),
        (H200, "float16", (256, 256), (True, 1024), (), "cudnn"),
        (H200, "bfloat16", (64, 64), (False, 0), (), "cudnn"),
        (A100, "bfloat16", (96, 96), (True, 0), (), "cudnn"),
        ("NVIDIA GeForce RTX 4090", "bfloat16", (128, 128), (True, 0), (), "cudnn"),
        (A100, "bfloat16", (256, 256), (True, 0), (), "xla"),
        (A100, "bfloat16", (128, 128), (True, 0), ("segments",), "xla"),
        (H200, "float32", (128, 128), (True, 0), (), "xla"),
        (H200, "bfloat16", (100, 100), (True, 0), (), "xla"),
        (H200, "bfloat16", (128, 128), (False, 1024), (), BLOCKS),
        (H200, "bfloat16", (128, 64), (True, 0), (), BLOCKS),
        (H200, "bfloat16", (128, 128), (True, 0), ("segments", "valid", "slopes", "soft cap", "sinks"), BLOCKS),
        (H200, "bfloat16", (128, 128), (True, 0), ("bias",), "xla"),
        (H200, "bfloat16", (96, 96), (True, 0), ("segments",), "xla"),
        ("Tesla V100-SXM2-16GB", "float16", (128, 128), (True, 0), (), "xla"),
        (TPU, "bfloat16", (128, 128), (True, 0), (), "splash"),
        (TPU, "float32", (256, 256), (True, 1024), ("segments", "soft cap"), "splash"),
        (TPU, "bfloat16", (64, 64), (True, 0), (), "blocks"),
        (TPU, "bfloat16", (128, 128), (False, 0), (), "blocks"),
        (TPU, "bfloat16", (128, 128), (True, 0), ("valid", "slopes", "sinks"), "blocks"),
        (TPU, "bfloat16", (128, 128), (True, 0), ("bias",), "xla"),
        (TPU, "float16", (128, 128), (True, 0), (), "xla"),
        ("cpu", "bfloat16", (128, 128), (True, 0), (), "xla"),
    ],
)
def test_device_numbers_sight_and_what_is_beside_choose(
    with_cudnn, device_kind, dtype, channels, sight, beside, expected
):
    causal, window = sight
    assert choose(device_kind, dtype, channels, causal=causal, window=window, beside=set(beside)) == expected


def test_a_process_without_a_gpu_has_no_cudnn():
    wrong = cudnn.misfit(H200, jnp.bfloat16, (128, 128), causal=True, window=0)
    assert wrong == "this process must see a GPU, with which JAX brings cuDNN,"


NAMES = {
    "NVIDIA H100 80GB HBM3": True,
    "NVIDIA GH200 480GB": True,
    "NVIDIA B200": True,
    "NVIDIA A10G": True,
    "NVIDIA L4": True,
    "NVIDIA RTX A6000": True,
    "NVIDIA RTX 6000 Ada Generation": True,
    "NVIDIA GeForce RTX 2080 Ti": False,
    "NVIDIA GeForce GTX 1080": False,
    "Tesla T4": False,
    "AMD Instinct MI300X": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_generations_are_told_by_their_names(name):
    assert is_nvidia_since_ampere(name) == NAMES[name]


def arrays(length, heads=2, kv_heads=1, channels=8, dtype=jnp.float32):
    draw = np.random.default_rng(0).standard_normal
    shapes = ((2, length, n, channels) for n in (heads, kv_heads, kv_heads))
    return [jnp.asarray(draw(shape), dtype) for shape in shapes]


@pytest.mark.parametrize(("causal", "window"), [(True, 0), (True, 5), (True, 1), (False, 0)])
def test_what_is_asked_of_cudnn_is_the_reference(causal, window, monkeypatch):
    """JAX has one function for cuDNN and XLA: what XLA makes of the same question is compared."""
    asked, by_jax = {}, jax.nn.dot_product_attention

    def by_xla(*operands, implementation, **given):
        asked.update(given, implementation=implementation)
        return by_jax(*operands, implementation="xla", **given)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    operands, places = arrays(11), jnp.arange(11)[None]
    mask = attention_mask(places, places, causal=causal, window=window)
    found = cudnn.attend(*operands, causal=causal, window=window, scale=0.4)
    np.testing.assert_allclose(found, attend(*operands, mask=mask, scale=0.4), atol=1e-6)
    assert asked["implementation"] == "cudnn"


@pytest.mark.parametrize("window", [0, 7])
def test_a_model_on_a_hopper_gpu_calls_cudnn_forward_and_backward(with_cudnn, monkeypatch, window):
    monkeypatch.setattr(_attend, "device_kind", lambda: H200)
    cfg = attention.Config(num_heads=2, num_kv_heads=1, head_dim=8, window=window)
    operands = arrays(CHUNK + 2, dtype=jnp.bfloat16)
    read = Context(positions=jnp.tile(jnp.arange(CHUNK + 2), (2, 1)))
    loss = lambda *operands: _attend.attend_tokens(cfg, *operands, None, None, read).astype(jnp.float32).sum()
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    assert "@__cudnn$fmhaSoftmax(" in program and "@__cudnn$fmhaSoftmaxBackward(" in program
    length = f'\\22sliding_window_length\\22: {window},'
    assert program.count(length) == 2 and program.count("\\22mask_type\\22: \\22CAUSAL\\22") == 2


@pytest.mark.skipif(not compat.available(), reason="Mosaic GPU kernels need a newer JAX")
def test_a_model_on_a_hopper_gpu_has_our_kernels_for_packed_rows_and_alibi(with_cudnn, monkeypatch):
    monkeypatch.setattr(_attend, "device_kind", lambda: H200)
    cfg = attention.Config(num_heads=2, num_kv_heads=1, head_dim=64, position=alibi.Config())
    places = jnp.tile(jnp.arange(CHUNK + 2), (2, 1))
    read = Context(positions=places, segment_ids=1 + places // 70)
    bias, _ = cfg.position.bias(lambda *_: None, 2, {})
    run = lambda *operands: _attend.attend_tokens(cfg, *operands, None, bias, read)
    program = str(jax.make_jaxpr(run)(*arrays(CHUNK + 2, channels=64, dtype=jnp.bfloat16)))
    assert "name=block_attention" in program
