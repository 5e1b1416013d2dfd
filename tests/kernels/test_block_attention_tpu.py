"""The TPU kernels over block maps, interpreted on CPU, are dense attention: values, gradients, no block too many."""

import functools

import jax
import numpy as np
import pytest

from arch.kernels import compat
from arch.kernels.block_attention import tpu
from arch.kernels.block_attention.flash import attend
from tests.kernels.block_attention_cases import HEADS, PER_HEAD, SHARED, Case, agree, agree_on, calls, must_meet

EVERY = ("segments", "valid", "slopes", "sinks", "soft cap")
few = functools.partial(Case, heads=2, rows=1)
PAIRS = [
    (SHARED[2:], few("full", kv_heads=1, length=15, extras=("segments", "sinks"))),
    (SHARED[:2] + SHARED[4:], few("full", kv_heads=2, length=16, extras=("slopes", "soft cap"))),
    (SHARED[:4], few("full", "bfloat16", kv_heads=1, length=16, extras=("valid",))),
    (SHARED, few("full", "bfloat16", kv_heads=2, length=15)),
    ((PER_HEAD,), few(PER_HEAD, kv_heads=1, length=15)),
    ((PER_HEAD,), few(PER_HEAD, "bfloat16", kv_heads=2, length=16)),
]
"""Each two of pattern, dtype, heads a key-value head has, and whole or odd length meet (`test_pairs`)."""
CASES = [
    Case("bigbird, random in each head", "bfloat16", extras=("slopes", "sinks", "soft cap"), value_channels=16),
    Case("rows that see nothing", "float32", kv_heads=1, extras=("segments", "valid"), block=(8, 16)),
    Case("full", "float32", kv_heads=4, length=16, gain=1e4),
    Case("full", "bfloat16", kv_heads=2, length=17, block=(16, 8), extras=EVERY),
    Case("causal", "bfloat16", kv_heads=1, length=29, gain=1e3),
    Case("causal", "float32", kv_heads=4, length=29, extras=EVERY),
    Case("window", "float32", kv_heads=1, length=31, extras=("sinks",)),
    Case("window", "bfloat16", kv_heads=2, length=24, extras=("valid",)),
    Case("dilated", "float32", kv_heads=2, length=37, extras=("soft cap",)),
    Case("dilated", "bfloat16", kv_heads=4, length=29, extras=("segments", "sinks")),
    Case("longformer", "float32", kv_heads=4, length=40, extras=("slopes",)),
    Case("longformer", "bfloat16", kv_heads=1, length=41, extras=("segments", "valid")),
    Case("bigbird, random in each head", "float32", kv_heads=1, length=43, extras=EVERY),
    Case("bigbird, random in each head", "float32", kv_heads=4, length=48),
    Case("rows that see nothing", "bfloat16", kv_heads=2, extras=("sinks", "soft cap")),
]
interpreted = functools.partial(attend, kernels="tpu", launch=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The interpreter takes blocks of any size."""
    monkeypatch.setattr(tpu, "LANES", 8)
    monkeypatch.setattr(tpu, "BITS", 8)


@pytest.mark.parametrize(("patterns", "case"), PAIRS, ids=[f"{len(names)} patterns, {case}" for names, case in PAIRS])
def test_each_pattern_is_data_to_one_program_whose_results_are_those_of_dense_attention(patterns, case, capfd):
    _, pltpu = compat.tpu()
    watched = functools.partial(attend, kernels="tpu", launch=pltpu.InterpretParams(detect_races=True))
    agree_on(patterns, case, watched, "tpu")
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_pairs():
    must_meet(PAIRS, dtypes=("float32", "bfloat16"), kv_heads=(1, 2), block=8)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_dense_attention(case):
    agree(case, functools.partial(interpreted, block_map=case.map))


def test_a_mask_is_stored_a_bit_a_pair(monkeypatch):
    monkeypatch.undo()
    masks = np.random.default_rng(0).random((3, 128, 256)) < 0.5
    words = tpu.stored(masks)
    assert words.nbytes == masks.size // 8
    for mask, its_words in zip(masks, words):
        np.testing.assert_array_equal(tpu._seen(its_words), mask)


@pytest.mark.parametrize(
    "pattern", ["longformer", pytest.param("bigbird, random in each head", marks=pytest.mark.slow)]
)
def test_forward_and_backward_visit_the_blocks_of_the_map_and_no_other(pattern, monkeypatch):
    case = Case(pattern, length=50, rows=1)
    seen, heads = calls(tpu, "_logits", monkeypatch), HEADS // case.map.heads
    *arrays, d_out, d_logsumexp = case.arrays()
    results, pull = jax.vjp(functools.partial(interpreted, block_map=case.map), *arrays)
    jax.block_until_ready(results)
    blocks = len(case.map.lists.blocks) * heads
    assert blocks < HEADS * 7 * 7 * 0.8
    assert len(seen) == blocks
    jax.block_until_ready(pull((d_out, d_logsumexp)))
    assert len(seen) == 3 * blocks  # again by rows, and by keys


@pytest.mark.slow
def test_copies_and_reads_are_free_of_races(capfd):
    _, pltpu = compat.tpu()
    case = Case("bigbird, random in each head", "bfloat16", length=20, rows=1, extras=EVERY)
    launch = pltpu.InterpretParams(detect_races=True)
    agree(case, functools.partial(attend, kernels="tpu", launch=launch, block_map=case.map))
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[:, :, :3], k, v), "num_heads=3 must be a multiple of num_kv_heads=2"),
        (lambda q, k, v: (q.astype("bfloat16"), k, v), "query.dtype=bfloat16, key.dtype=float32 .* must be the same"),
        (lambda q, k, v: (q[:, 1:], k, v), "query length=22 must be the map's 23"),
        (lambda q, k, v: (q, k[:, 1:], v[:, 1:]), "key length=22 must be the map's 23"),
        (lambda q, k, v: [array.astype("float16") for array in (q, k, v)], "dtype=float16 must be one of float32"),
        (lambda q, k, v: (q[:, :, :2], k, v), "the map's heads=4 must be 1 or num_heads=2"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(change, message):
    case = Case("bigbird, random in each head")
    with pytest.raises(ValueError, match=message):
        interpreted(*change(*case.arrays()[:3]), block_map=case.map)


def test_blocks_that_fill_no_register_are_named(monkeypatch):
    monkeypatch.undo()
    case = Case("causal", block=(128, 64))
    with pytest.raises(ValueError, match=r"block=\(128, 64\) must be multiples of 128 for the kernels"):
        attend(*case.arrays()[:3], case.map, kernels="tpu")
