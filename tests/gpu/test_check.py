"""What was compiled ahead of time for an H200, as kept: ours compiles and fits the device."""

import json

import pytest

from benchmarks import measure
from benchmarks.gpu import check
from benchmarks.gpu.names import PARTS

KEPT = json.loads((measure.RESULTS / "gpu.check.json").read_text())
ROWS = {command.split()[-1]: entry["rows"] for command, entry in KEPT.items()}


@pytest.mark.parametrize("part", ROWS)
def test_what_is_kept_of_a_part_compiles_and_fits(part):
    assert part in PARTS and ROWS[part]
    assert check.wrong(ROWS[part]) == []


def test_what_is_ours_and_does_not_compile_or_fit_is_wrong():
    fits = dict(side="own", temporary_bytes=2**30, operand_and_result_bytes=2**30)
    large, broken = fits | dict(temporary_bytes=check.DEVICE_BYTES), dict(side="own", error="ValueError: no")
    assert check.wrong([fits, large, broken, broken | dict(side="tokamax")]) == [large, broken]
