"""The grouped matrix product by torch; those of JAX packages are `arch.kernels.grouped_matmul.peers`."""

from benchmarks.gpu.peers import need
from benchmarks.gpu.torch_side import Peer


def torch_grouped_mm() -> Peer:
    """By `torch._grouped_mm`."""
    torch = need("torch", "torch")
    if not hasattr(torch, "_grouped_mm"):
        raise ImportError(f"torch {torch.__version__} has no _grouped_mm")

    def given(operands):
        ends = operands["group_sizes"].cumsum(0).to(torch.int32)
        return {"x": operands["x"], "weight": operands["weight"], "ends": ends}

    def call(x, weight, ends):
        return torch._grouped_mm(x, weight, offs=ends)

    return Peer(call, given)
