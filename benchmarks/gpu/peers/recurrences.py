"""Recurrences by mamba-ssm, fla and jax-linear-attention, on operands as `arch.ops` has them."""

from collections.abc import Callable

from benchmarks.gpu.peers import need
from benchmarks.gpu.torch_side import Peer


def mamba_cuda() -> Peer:
    """The selective scan of mamba-ssm, in CUDA: x, delta [b f t], B, C [b n t]."""
    module = need("mamba-ssm", "mamba_ssm.ops.selective_scan_interface")
    need_extension = getattr(module, "selective_scan_cuda", None)
    if need_extension is None:
        raise ImportError("mamba-ssm is installed without its CUDA extension, selective_scan_cuda")

    def given(operands):
        time_last = {name: operands[name].transpose(1, 2).contiguous() for name in ("x", "delta", "B", "C")}
        return operands | time_last

    def call(x, delta, A, B, C, D):
        return module.selective_scan_fn(x, delta, A, B, C, D)

    return Peer(call, given, lambda out: out.transpose(1, 2))


def mamba_triton(chunk: int = 256) -> Peer:
    """The state space duality of mamba-ssm, in Triton; chunks as its Mamba-2 has them."""
    module = need("mamba-ssm", "mamba_ssm.ops.triton.ssd_combined")

    def call(x, delta, A, B, C, D):
        return module.mamba_chunk_scan_combined(x, delta, A, B, C, chunk, D=D)

    return Peer(call)


def fla_linear_attention() -> Peer:
    """Linear attention of fla, in chunks, each result divided by its sum of weights."""
    module = need("fla-core", "fla.ops.linear_attn")

    def call(query, key, value):
        return module.chunk_linear_attn(query, key, value, scale=1.0, normalize=True)[0]

    return Peer(call)


def fla_wkv() -> Peer:
    """RWKV-4's WKV of fla, whose decay is the exponential of what it is given."""
    torch, module = need("torch", "torch"), need("fla-core", "fla.ops.rwkv4")

    def given(operands):
        batch, _, channels = operands["key"].shape
        state = torch.zeros(batch, 3, 1, channels, device=operands["key"].device)
        state[:, 2] = -1e38  # the exponent of nothing
        return operands | {"decay": operands["decay"].log(), "state": state}

    def call(key, value, decay, bonus, state):
        return module.fused_recurrent_rwkv4(decay, bonus, key, value, state)[0]

    return Peer(call, given)


def jla_mamba() -> Callable:
    """The selective scan of jax-linear-attention; delta is of x's dtype."""
    scan = need("jax-linear-attention", "jla.ops.mosaic_gpu.mamba1").mamba1
    return lambda x, delta, A, B, C, D: scan(C, B, x, delta, A, d=D)[0]


def jla_ssd() -> Callable:
    """The state space duality by the gated linear attention of jax-linear-attention."""
    import jax.numpy as jnp

    attend = need("jax-linear-attention", "jla.ops.mosaic_gpu.scalar_gate").simple_gla

    def run(x, delta, A, B, C, D):
        wide = x.astype(jnp.float32)
        value = (delta[..., None] * wide).astype(x.dtype)
        y = attend(C, B, value, delta * A, scale=1.0)[0]
        return (y.astype(jnp.float32) + D[:, None] * wide).astype(x.dtype)

    return run
