"""The comparison of kernels with references: which kernels, what counts as right, run on CPU in the interpreter."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.kernels import compat, warpgroups
from benchmarks.gpu import correctness
from benchmarks.gpu.checks import grouped_matmul

UNIT = 0.01


def test_operations_are_those_whose_choice_names_a_kernel_for_hopper():
    assert {"block_attention", "grouped_matmul", "linear_attention"} <= set(correctness.operations())


@pytest.mark.parametrize("operation", correctness.operations())
def test_each_has_cases_in_all_dtypes_that_its_kernels_take(operation):
    kernels = importlib.import_module(f"arch.kernels.{operation}.hopper")
    cases = correctness.taken(operation)
    assert {jnp.dtype(case.dtype) for case in cases} == set(kernels.DTYPES)
    assert len({str(case) for case in cases}) == len(cases)
    assert all(dataclasses.replace(case, seed=-1) != case for case in cases)  # drawn anew for each seed


def test_every_case_is_a_piece():
    for name, make in correctness.PIECES.items():
        assert name == f"{make().operation}: {make().case}"


@pytest.mark.skipif(jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels")
def test_kernels_in_the_interpreter_are_right_and_drawn_anew_for_each_seed():
    _, plgpu = compat.modules()
    launch = warpgroups.Launch(columns=64, slots=2, blocks=2, interpret=plgpu.InterpretGPUParams())
    check = correctness.Check("grouped_matmul", grouped_matmul.Case((5, 0, 3), spare=1, d=64, f=64))
    rows = check.run(seed=11, launch=launch)
    assert [row["result"] for row in rows] == ["y", "d_x", "d_weight"]
    for row in rows:
        assert row["right"] and 0 < row["rms_error"] < row["max_error"] < row["allowed"] == 8 * 2.0**-7
        assert row["seed"] == 11


def told(found, exact):
    (row,) = correctness.errors({"y": np.asarray(found)}, {"y": np.asarray(exact)}, UNIT)
    return row


def test_errors_are_relative_to_the_greatest_number():
    row = told([4.1, 100.0], [4.0, 100.0])
    assert row == dict(result="y", max_error=0.001, rms_error=pytest.approx(0.000707), allowed=0.08, right=True)


@pytest.mark.parametrize(
    ("found", "exact"),
    [([1.09, 0.0], [1.0, 0.0]), ([np.nan, 0.0], [1.0, 0.0]), ([1.0, 0.0], [1.0, -np.inf]), ([np.inf], [-np.inf])],
)
def test_what_is_too_far_or_not_finite_where_it_should_be_is_wrong(found, exact):
    assert not told(found, exact)["right"]


def test_what_must_be_infinite_may_be():
    assert told([1.0, -np.inf], [1.0, -np.inf])["right"]
