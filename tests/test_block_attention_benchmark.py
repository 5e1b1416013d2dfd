"""What compilers made of the kernels over block maps, as kept: memory grows with the length, code with nothing."""

import json

import pytest

from benchmarks import ahead_of_time, block_attention, measure

KEPT = json.loads((measure.RESULTS / "block_attention.json").read_text())
ROWS = {command.split()[-1]: entry["rows"] for command, entry in KEPT.items()}


def test_each_target_has_each_case():
    assert set(ROWS) == set(ahead_of_time.TARGETS)
    for rows in ROWS.values():
        assert [(row["pattern"], row["length"]) for row in rows] == block_attention.CASES


@pytest.mark.parametrize("target", ROWS)
def test_the_backward_pass_visits_what_the_forward_pass_visits_which_is_the_map(target):
    for row in ROWS[target]:
        assert row["visits"] == [row["blocks"], row["blocks"]]
        assert row["list_bytes"] <= 2 * (8 * row["blocks"] + 20 * (row["length"] // 128 + 1))


@pytest.mark.parametrize("target", ROWS)
def test_temporaries_are_less_than_operands_and_results_which_are_linear_in_the_length(target):
    for row in ROWS[target]:
        assert row["operand_and_result_bytes"] < 11000 * row["length"]
        assert row["temporary_bytes"] < row["operand_and_result_bytes"]


@pytest.mark.parametrize("target", [target for target in ROWS if target != "H200"])
def test_code_does_not_grow_with_the_masks(target):
    """The program holds the masks twice, as they are and transposed, a bit a pair, beside its code."""
    short = [row for row in ROWS[target] if row["length"] == 8192]
    assert max(row["masks"] for row in short) > 500 * min(row["masks"] for row in short)
    code = [row["code_bytes"] - 2 * row["mask_bytes"] // 8 for row in short]
    assert max(code) <= 1.02 * min(code)


def test_on_an_h200_no_kernel_spills_and_each_multiplies_on_tensor_cores():
    kernels = [kernel for row in ROWS["H200"] for kernel in row["kernels"]]
    assert {kernel["kernel"] for kernel in kernels} == {f"block_attention{end}" for end in ("", "_by_rows", "_by_keys")}
    for kernel in kernels:
        assert kernel["spill_store_bytes"] == kernel["spill_load_bytes"] == 0
        assert sum(kernel["wgmma"].values())
