"""The axis legend and the array types that all signatures share.

A shape is written with one letter an axis, everywhere the same:

    b batch        t query length   s key length    d embed_dim     n num_heads
    k num_kv_heads h head_dim       f hidden_dim    e num_experts   c capacity or chunk
    v vocab_size   w convolution width              m rows (tokens of a batch, flattened)

In a formula the paper's symbols win and the docstring binds them to words. `Float[Array, "b t d"]` is an array of
floats with those axes; the import hook that tests switch on (tests/conftest.py) checks every call against it.
"""

from jaxtyping import Array, Bool, Complex, Float, Int, Key, Num, PyTree, Scalar, Shaped

__all__ = ["Array", "Bool", "Complex", "Float", "Int", "Key", "Num", "PyTree", "Scalar", "Shaped"]
