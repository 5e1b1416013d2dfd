"""Kernels are taken where they suit the device, and none where none are wanted; `run.py --kernels` says which."""

import subprocess
import sys
from functools import partial

import jax.numpy as jnp
import pytest

from arch.kernels import implementations
from arch.kernels.block_attention import choice as blocks
from arch.kernels.decode_attention import choice as decoding
from arch.kernels.fused_attention import choice as fused
from arch.kernels.grouped_matmul import choice as grouped
from tests.commands import ROOT

TPU, BF16, HEAD = "TPU v5p", jnp.bfloat16, (128, 128)
CHOICES = {
    "blocks": partial(blocks.choose, TPU, BF16, HEAD, (128, 128)),
    "decoding": partial(decoding.choose, TPU, BF16, HEAD, rows=4, slots=4096),
    "fused": partial(fused.choose, TPU, BF16, HEAD, causal=True, window=0),
    "not fused": partial(fused.choose, TPU, BF16, HEAD, causal=True, window=0, beside={"slopes"}),
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_no_kernel_is_chosen_where_none_are_wanted(choose):
    best = choose()
    with implementations.without_kernels():
        assert choose() == "xla" != best
        with implementations.without_kernels(False):
            assert choose() == best
    assert choose() == best


def test_nor_for_grouped_products(monkeypatch):
    monkeypatch.setattr(grouped.compat, "available", lambda: True)
    assert grouped.choose("NVIDIA H200", BF16, 128, 128) == "mosaic"
    with implementations.without_kernels():
        assert grouped.choose("NVIDIA H200", BF16, 128, 128) == "blocks"


ASK = """
import run
from absl.testing import flagsaver

run.perform = lambda *_: print(run.implementations.allowed())
for flags in ([], ["--kernels=xla"]):
    with flagsaver.flagsaver():
        run.main(["run.py", "--config=configs/demo.py", "--mode=describe", *flags])
"""


def test_the_command_line_says_which():
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
