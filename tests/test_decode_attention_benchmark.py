"""What compilers made of the kernel of attention to a cache, as kept: nothing but the cache grows with the cache."""

import json

import pytest

from benchmarks import ahead_of_time, decode_attention, measure

KEPT = json.loads((measure.RESULTS / "decode_attention.json").read_text())
ROWS = {command.split()[-1]: entry["rows"] for command, entry in KEPT.items()}


def test_each_target_has_each_case():
    assert set(ROWS) == set(ahead_of_time.TARGETS)
    for rows in ROWS.values():
        assert [(row["case"], row["slots"]) for row in rows] == decode_attention.CASES


@pytest.mark.parametrize("target", ROWS)
def test_neither_temporaries_nor_code_grow_with_the_cache(target):
    for short, long in zip(ROWS[target][::2], ROWS[target][1::2], strict=True):
        assert long["slots"] == 16 * short["slots"]
        assert long["temporary_bytes"] <= 1.02 * short["temporary_bytes"] < 0.05 * short["operand_and_result_bytes"]
        assert long["code_bytes"] <= 1.02 * short["code_bytes"]


def test_on_an_h200_nothing_spills_and_products_are_on_tensor_cores():
    for row in ROWS["H200"]:
        [kernel] = row["kernels"]
        assert kernel["kernel"] == "decode_attention" and sum(kernel["wgmma"].values())
        assert kernel["spill_store_bytes"] == kernel["spill_load_bytes"] == 0
