"""Attention by torch: its fused attention and FlexAttention, compiled. Arrays [b t n h] become tensors [b n t h]."""

from collections.abc import Callable

from benchmarks.gpu.peers import need
from benchmarks.gpu.torch_side import Peer


def _heads_first(operands: dict) -> dict:
    return {name: tensor.transpose(1, 2).contiguous() for name, tensor in operands.items()}


def _back(out):
    return out.transpose(1, 2)


def fused(*, causal: bool) -> Peer:
    """By what torch's scaled_dot_product_attention chooses."""
    attend = need("torch", "torch").nn.functional.scaled_dot_product_attention

    def call(query, key, value):
        return attend(query, key, value, is_causal=causal)

    return Peer(call, _heads_first, _back)


def flex(visible: Callable, length: int, block: int, *, device: str = "cuda") -> Peer:
    """By FlexAttention, over the blocks in which `visible` is true anywhere; where it is everywhere, without a mask.

    Args:
      visible: visible(query_place, key_place) of tensors of places, which may be integers of torch's own kind.
      length: of the rows.
      block: tokens of a block, on either side.
      device: of the tensors.
    """
    torch = need("torch", "torch")
    module = need("torch", "torch.nn.attention.flex_attention")

    def seen(batch, head, query, key):
        return visible(query, key)

    blocks = module.create_block_mask(seen, None, None, length, length, device=device, BLOCK_SIZE=block)
    attend = torch.compile(module.flex_attention, dynamic=False)

    def call(query, key, value):
        return attend(query, key, value, block_mask=blocks)

    return Peer(call, _heads_first, _back)


def table(blocks: "bool [t s] of NumPy", block: int, *, device: str = "cuda") -> Callable:
    """What `flex` sees by, of whole blocks that see each other or not."""
    torch = need("torch", "torch")
    seen = torch.from_numpy(blocks).to(device)
    return lambda query, key: seen[query // block, key // block]
