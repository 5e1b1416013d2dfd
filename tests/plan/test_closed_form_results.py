"""The closed form's memory beside what libtpu assigned: kept rows of benchmarks/results/closed_form.json."""

import json

import pytest

from benchmarks import closed_form, measure

COMMAND = "python -m benchmarks.closed_form "
ROWS = {
    command.removeprefix(COMMAND): row
    for command, row in json.loads((measure.RESULTS / "closed_form.json").read_text()).items()
}
STEPS = {case: row for case, row in ROWS.items() if "temporaries" in row["compiled"]}


def test_at_least_thirty_configs_were_held_out_of_which_as_many_steps_are_within_a_quarter():
    fitted, held_out = set(closed_form.FITTED), set(closed_form.HELD_OUT)
    assert set(ROWS) <= fitted | held_out and not fitted & held_out
    assert len(set(STEPS) & held_out) >= 30


@pytest.mark.parametrize("case", ROWS)
def test_its_persistent_bytes_are_the_arguments_within_a_hundredth(case):
    row = ROWS[case]
    assert row["closed_form"]["persistent"] == pytest.approx(row["compiled"]["persistent"], rel=0.01)


@pytest.mark.parametrize("case", STEPS)
def test_its_temporaries_are_the_heap_within_a_quarter(case):
    row = ROWS[case]
    assert row["closed_form"]["temporaries"] == pytest.approx(row["compiled"]["temporaries"], rel=0.25)


LOG = [
    "I1 buffer_assignment.cc:1] allocation 7: size 640, page 0, preallocated-temp:",
    "I1 buffer_assignment.cc:1] allocation 1: size 512, page 0, parameter 1, shape |f32[3]|, maybe-live-out:",
    "I1 buffer_assignment.cc:1] allocation 2: size 1024, page 0, parameter 0, shape |f32[200]|:",
    "I1 buffer_assignment.cc:1] allocation 3: size 76, color 2, page 0, preallocated-temp:",
    "I1 buffer_assignment.cc:1] allocation 4: size 896, page 0, preallocated-temp:",
    "I1 buffer_assignment.cc:1] Buffer assignment done.",
]


def test_of_a_log_the_last_heap_in_the_main_memory_counts():
    assert closed_form.sizes_of(LOG) == dict(persistent=1536, temporaries=896)


def test_a_log_that_ends_too_early_is_refused():
    with pytest.raises(ValueError, match="libtpu must say 'Buffer assignment done.'"):
        closed_form.sizes_of(LOG[:-1])
