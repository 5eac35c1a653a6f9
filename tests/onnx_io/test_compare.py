"""Outputs in files, and measures of the distance between two models' outputs."""

import errno

import numpy as np
import pytest

from patch_compile.onnx_io.compare import Outputs, compare_answers, load_array, save_array, worst_error
from tests.attacks.faults.shim import COMPILER, Fault, work_under


def answers(folder, *runs):
    folder.mkdir()
    for run, array in enumerate(runs):
        np.save(folder / f"0.{run}.npy", np.asarray(array))
    return Outputs(folder, ("y",), len(runs))


def compared(tmp_path, mine, reference):
    (difference,) = compare_answers(answers(tmp_path / "a", *mine), answers(tmp_path / "b", *reference))
    return difference


def test_errors_are_of_all_runs_together(tmp_path):
    reference = [np.array([3.0, -4.0], np.float32), np.array([0.0, 0.0], np.float32)]
    mine = [np.array([3.0, -4.0], np.float32), np.array([0.0, 1.0], np.float32)]
    difference = compared(tmp_path, mine, reference)
    assert (difference.largest, difference.relative, difference.floating) == (0.25, 0.2, True)


def test_errors_by_norm_ignore_a_single_value(tmp_path):
    reference = np.full(10_000, 2.0)
    mine = reference.copy()
    mine[7] = 4.0
    both = answers(tmp_path / "a", mine), answers(tmp_path / "b", reference)
    assert worst_error(*both, by_norm=False) == 1.0
    assert worst_error(*both, by_norm=True) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("mine", "reference"),
    [([np.nan, 1.0], [0.0, 1.0]), ([0.0, 1.0], [np.inf, 1.0]), ([1.0], [1.0, 1.0])],
    ids=["NaN", "infinity", "shape"],
)
def test_what_cannot_be_compared_has_no_difference(tmp_path, mine, reference):
    assert compared(tmp_path, [np.array(mine)], [np.array(reference)]).largest is None


def test_values_infinite_in_both_are_skipped(tmp_path):
    mine, reference = np.array([np.nan, np.inf, 2.0]), np.array([np.nan, np.inf, 1.0])
    assert compared(tmp_path, [mine], [reference]).largest == 1.0


def test_integers_are_equal_or_not(tmp_path):
    difference = compared(tmp_path, [np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 400])])
    assert (difference.largest, difference.relative, difference.floating) == (0.25, 0.25, False)


@pytest.mark.parametrize(
    "array", [np.arange(12, dtype=np.float32).reshape(3, 4).T, np.float32(1.5), np.zeros((0, 3))]
)
def test_what_is_saved_is_read_back(tmp_path, array):
    save_array(tmp_path / "a.npy", array)
    for found in (load_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")):
        assert found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
@pytest.mark.parametrize("fault", [Fault.EIO, Fault.FULL])
def test_unwritable_bytes_are_an_error(tmp_path, fault):
    work = 'import patch_compile.onnx_io.compare as a, numpy; a.save_array(folder / "a.npy", numpy.ones(1000, "u1"))'
    _, _, operations = work_under(Fault.NONE, 0, tmp_path / "whole", work)
    written = [i for i, (name, _) in enumerate(operations, 1) if name == "write"]
    for at in written:
        number = errno.EIO if fault == Fault.EIO else errno.ENOSPC
        assert work_under(fault, at, tmp_path / f"at-{at}", work)[1] == str(number)


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_unreadable_bytes_are_an_error(tmp_path):
    work = 'import patch_compile.onnx_io.compare as a; a.load_array(folder / "a.npy")'
    for at in (1, 2, 3):  # to open it, its beginning, its content
        (tmp_path / f"at-{at}").mkdir()
        np.save(tmp_path / f"at-{at}" / "a.npy", np.ones(100_000, "u1"))
        assert work_under(Fault.EIO_READ, at, tmp_path / f"at-{at}", work)[1] == str(errno.EIO)
