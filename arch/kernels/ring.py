"""A ring of buffers in shared memory, which one warpgroup of a kernel fills by TMA and the others read.

Step i uses slot i modulo the number of slots. A slot is filled again once every reader has let it go, and read once all
its copies have arrived: the two barriers that Hopper's asynchronous copies are made for (Shah et al., FlashAttention-3,
2024, arXiv 2407.08608, sec. 3.1, has the same producer and consumers).
"""

import dataclasses
from typing import Any

import jax
from jax import lax

from arch.kernels import compat


@dataclasses.dataclass(frozen=True)
class Ring:
    """What both sides hold of it inside the kernel.

    Attributes:
      slots: how many.
      full: a barrier for each slot, at which each copy arrives; see `barriers`.
      empty: one for each slot, at which each reading warpgroup arrives.
    """

    slots: int
    full: Any
    empty: Any

    @staticmethod
    def barriers(slots: int, *, copies: int, readers: int) -> tuple:
        """The types of `full` and `empty`, for the kernel's scratch memory."""
        _, plgpu = compat.modules()
        full = plgpu.Barrier(num_arrivals=copies, num_barriers=slots)
        return full, plgpu.Barrier(num_arrivals=readers, num_barriers=slots)

    def fill(self, step: jax.Array, *copies: tuple[Any, Any]) -> None:
        """Starts the copies (of global memory, into a buffer with one part for each slot) of this step."""
        pl, plgpu = compat.modules()
        slot = lax.rem(step, self.slots)

        @pl.when(step >= self.slots)
        def _():
            plgpu.barrier_wait(self.empty.at[slot])

        for source, buffer in copies:
            plgpu.copy_gmem_to_smem(source, buffer.at[slot], self.full.at[slot])

    def finish(self, steps: jax.Array) -> None:
        """Waits until the last of so many steps is read: a barrier must not be left half way."""
        _, plgpu = compat.modules()
        first = lax.max(steps - self.slots, 0)
        lax.fori_loop(first, steps, lambda i, _: plgpu.barrier_wait(self.empty.at[lax.rem(i, self.slots)]), None)

    def await_full(self, step: jax.Array) -> jax.Array:
        """The slot of this step, once its copies have arrived."""
        _, plgpu = compat.modules()
        slot = lax.rem(step, self.slots)
        plgpu.barrier_wait(self.full.at[slot])
        return slot

    def let_go(self, step: jax.Array) -> None:
        """This reader is done with the step."""
        _, plgpu = compat.modules()
        plgpu.barrier_arrive(self.empty.at[lax.rem(step, self.slots)])
