"""The other side of a contest in torch, on the same operands, which lie on the device once.

Nothing imports torch before a peer is asked for.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Peer:
    """A function of torch tensors.

    Attributes:
      call: of the operands by name as `given` made them; its result is a tensor.
      given: from the operands as they are here to what the peer takes, once, before anything is timed.
      back: the result as it is here.
    """

    call: Callable[..., Any]
    given: Callable[[dict], dict] = lambda operands: operands
    back: Callable[[Any], Any] = lambda out: out


class Torch:
    """A peer's function, or that and its gradients by the operands of these names: a `timing.Side`."""

    def __init__(self, peer: Peer, sets: Sequence[Mapping[str, Any]], by: tuple[str, ...]):
        import torch

        self._torch, self._peer, self._by = torch, peer, by
        self._sets = [peer.given({name: _tensor(array) for name, array in arrays.items()}) for arrays in sets]
        self._dy = None
        for tensors in self._sets:
            for name in by:
                tensors[name] = tensors[name].detach().requires_grad_()

    def launch(self, number: int) -> Any:
        tensors = self._sets[number % len(self._sets)]
        if not self._by:
            with self._torch.no_grad():
                return self._peer.call(**tensors)
        out = self._peer.call(**tensors)
        if self._dy is None:
            self._dy = self._torch.randn_like(out)
        return out, *self._torch.autograd.grad(out, [tensors[name] for name in self._by], self._dy)

    def wait(self, result: Any) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.synchronize()

    def out(self, result: Any) -> Any:
        """The function's result as an array here; its gradients are of another `dy`, so they are not told."""
        import jax

        out = self._peer.back((result[0] if self._by else result).detach())
        return jax.dlpack.from_dlpack(out.contiguous())


def _tensor(array):
    import torch

    return torch.from_dlpack(array)
