"""The Hopper kernels over block maps, interpreted on CPU, are dense attention, without a race and no block too many.

The interpreter simulates shared memory, copies, barriers and warpgroups, and reports accesses that nothing orders.
"""

import functools

import jax
import pytest

from arch.kernels import compat
from arch.kernels.block_attention import hopper, hopper_backward
from arch.kernels.block_attention.flash import attend
from arch.kernels.block_attention.hopper_parts import Launch
from tests.kernels.block_attention_cases import HEADS, PER_HEAD, SHARED, Case, agree, agree_on, calls, must_meet
from tests.kernels.interpreter import watching

EVERY = ("segments", "valid", "slopes", "sinks", "soft cap")
case = functools.partial(Case, dtype="bfloat16", rows=1, block=(64, 64), channels=64, value_channels=64)
few = functools.partial(case, heads=2)
PAIRS = [
    (SHARED[2:], few("full", kv_heads=1, length=100, extras=("segments", "sinks"))),
    (SHARED[:2] + SHARED[4:], few("full", kv_heads=2, length=128, extras=("slopes", "soft cap"))),
    (SHARED[:4], few("full", dtype="float16", kv_heads=1, length=128, extras=("valid",))),
    (SHARED, few("full", dtype="float16", kv_heads=2, length=100)),
    ((PER_HEAD,), few(PER_HEAD, kv_heads=1, length=100)),
    ((PER_HEAD,), few(PER_HEAD, dtype="float16", kv_heads=2, length=128)),
]
"""Each two of pattern, dtype, heads a key-value head has, and whole or odd length meet (`test_pairs`)."""
CASES = [
    case("rows that see nothing", length=150, kv_heads=2, extras=("sinks",)),
    case("bigbird, random in each head", length=200, kv_heads=2, extras=EVERY),
    case("bigbird, random in each head", length=128, kv_heads=1, dtype="float16", block=(128, 64)),
    case("longformer", length=201, kv_heads=4, extras=("slopes", "soft cap"), value_channels=128),
    case("causal", length=130, kv_heads=1, extras=("segments", "valid"), block=(64, 128)),
    case("dilated", length=256, kv_heads=2, block=(128, 128), channels=128, gain=1e3),
    case("full", length=128, kv_heads=4, gain=1e3, rows=2),
]

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels"
)


def interpreted(*args, **given):
    launch = Launch(slots=2, interpret=watching())
    return attend(*args, kernels="hopper", launch=launch, **given)


@pytest.mark.parametrize(("patterns", "case"), PAIRS, ids=[f"{len(names)} patterns, {case}" for names, case in PAIRS])
def test_each_pattern_is_data_to_one_program_whose_results_are_those_of_dense_attention(patterns, case, capfd):
    agree_on(patterns, case, interpreted, "hopper")
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


def test_pairs():
    must_meet(PAIRS, dtypes=("bfloat16", "float16"), kv_heads=(1, 2), block=64)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_dense_attention_without_a_race(case, capfd):
    agree(case, functools.partial(interpreted, block_map=case.map))
    assert "RACE DETECTED" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_forward_and_backward_visit_the_blocks_of_the_map_and_no_other(monkeypatch):
    sparse = case("rows that see nothing", length=150, extras=("valid",))
    forth = calls(hopper, "logits_of", monkeypatch)
    back = calls(hopper_backward, "logits_of", monkeypatch)
    *arrays, d_out, d_logsumexp = sparse.arrays()
    results, pull = jax.vjp(functools.partial(interpreted, block_map=sparse.map), *arrays)
    jax.block_until_ready(results)
    blocks = HEADS * len(sparse.map.lists.blocks)
    assert blocks == HEADS * 3 < HEADS * 3 * 3
    assert (len(forth), len(back)) == (blocks, 0)
    jax.block_until_ready(pull((d_out, d_logsumexp)))
    assert (len(forth), len(back)) == (blocks, 2 * blocks)  # by rows, and by keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dtype="float32"), "query.dtype=float32 must be one of bfloat16, float16: wgmma has no float32"),
        (dict(block=(32, 64)), r"block=\(32, 64\) must be 64 or 128 each for the kernels of kernels='hopper'"),
        (dict(block=(64, 192)), r"block=\(64, 192\) must be 64 or 128 each"),
        (dict(channels=80), r"channels=\(80, 64\) must be 64 or 128 each"),
        (dict(value_channels=256), r"channels=\(64, 256\) must be 64 or 128 each"),
    ],
)
def test_what_the_kernels_do_not_take_is_named(changes, message):
    wrong = case("causal", length=130, **changes)
    with pytest.raises(ValueError, match=message):
        interpreted(*wrong.arrays()[:3], block_map=wrong.map)
