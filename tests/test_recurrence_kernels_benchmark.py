"""What compilers made of the kernels of recurrences, as kept: for each device, how long lowering takes and what spills."""

import json

import pytest

from benchmarks import ahead_of_time, measure, recurrence_kernels

KEPT = json.loads((measure.RESULTS / "recurrence_kernels.json").read_text())
ROWS = {command.split()[-1]: entry["rows"] for command, entry in KEPT.items()}


def test_each_target_has_each_case_at_each_length():
    assert set(ROWS) == set(ahead_of_time.TARGETS)
    for target, rows in ROWS.items():
        wanted = {(name, n) for name in recurrence_kernels.cases(target) for n in recurrence_kernels.LENGTHS}
        assert {(row["case"], row["length"]) for row in rows} == wanted


@pytest.mark.parametrize("target", ROWS)
def test_lowering_takes_seconds_at_any_length(target):
    """An unrolled loop over chunks would take eight times as long at eight times the length."""
    assert max(row["lowering_s"] for row in ROWS[target]) < 15


@pytest.mark.parametrize("target", ROWS)
def test_no_state_of_each_token_is_kept(target):
    """Temporaries stay below twice the operands and results, which are linear in the length."""
    for row in ROWS[target]:
        assert row["temporary_bytes"] < 2 * row["operand_and_result_bytes"]


def test_on_an_h200_the_kernels_spill_nothing():
    for row in ROWS["H200"]:
        for kernel in row["kernels"]:
            assert kernel["spill_store_bytes"] == kernel["spill_load_bytes"] == 0


def test_on_an_h200_attention_multiplies_on_tensor_cores():
    kernels = [kernel for row in ROWS["H200"] for kernel in row["kernels"]]
    on_tensor_cores = {kernel["kernel"] for kernel in kernels if sum(kernel["wgmma"].values())}
    assert on_tensor_cores == {"decayed_attention", "decayed_attention_backward"}
