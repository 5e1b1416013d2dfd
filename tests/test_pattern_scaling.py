"""What attention over each kind of pattern costs on CPU, as kept: linear time and memory where the pattern is linear."""

import json
from pathlib import Path

import pytest

from benchmarks import attention_scaling, measure, pattern_scaling

KEPT = json.loads((measure.RESULTS / "pattern_scaling-cpu.json").read_text())
PARTS = {command.split()[-1]: part for command, part in KEPT.items()}
AT = 1 << 14
"""The length that the page tells of."""


def test_each_pattern_was_measured_at_each_length():
    assert set(PARTS) == set(pattern_scaling.FORMS)
    for form, part in PARTS.items():
        assert [row["length"] for row in part["rows"]] == list(pattern_scaling.patterns(form))


@pytest.mark.parametrize("form", pattern_scaling.LINEAR)
def test_time_and_temporaries_of_a_linear_pattern_are_linear(form):
    assert PARTS[form]["exponents"]["time"] <= 1.1
    assert PARTS[form]["exponents"]["temporaries"] <= 1.1


@pytest.mark.parametrize("form", pattern_scaling.ROOT)
def test_temporaries_of_a_pattern_of_strides_are_linear(form):
    rows = [row for row in PARTS[form]["rows"] if row["length"] >= 4096]
    first, last = rows[0], rows[-1]
    assert last["temporary_mib"] / first["temporary_mib"] <= 1.1 * last["length"] / first["length"]


def test_the_page_on_kernels_has_each_pattern():
    text = Path("docs/kernels.md").read_text()
    dense = json.loads((measure.RESULTS / f"{attention_scaling.NAME}-cpu.json").read_text())
    (dense,) = [row for command, part in dense.items() if command.endswith(" dense") for row in part["rows"][-1:]]
    assert dense["length"] == AT
    for form, part in PARTS.items():
        (row,) = [row for row in part["rows"] if row["length"] == AT]
        shares = f"{row['density']:.1%} | {row['visited']:.1%} | {row['least_ms'] / dense['least_ms']:.1%}"
        powers = part["exponents"]
        told = f"{powers['time']:.2f} | {powers['temporaries']:.2f}" if powers else " | "
        assert f"| {form} | {shares} | {told} |" in text, f"| {form} | {shares} | {told} |"
