"""Measures of the distance between two models' outputs."""

import numpy as np
import pytest

from patch_compile.onnx_io.compare import Outputs, compare_answers


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


@pytest.mark.parametrize(
    ("mine", "reference"),
    [([np.nan, 1.0], [0.0, 1.0]), ([0.0, 1.0], [np.inf, 1.0]), ([1.0], [1.0, 1.0])],
    ids=["NaN", "infinity", "shape"],
)
def test_what_cannot_be_compared_is_infinitely_far(tmp_path, mine, reference):
    assert compared(tmp_path, [np.array(mine)], [np.array(reference)]).largest == np.inf


def test_values_that_are_not_finite_in_both_are_passed_over(tmp_path):
    mine, reference = np.array([np.nan, np.inf, 2.0]), np.array([np.nan, np.inf, 1.0])
    assert compared(tmp_path, [mine], [reference]).largest == 1.0


def test_integers_are_equal_or_not(tmp_path):
    difference = compared(tmp_path, [np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 400])])
    assert (difference.largest, difference.relative, difference.floating) == (0.25, 0.25, False)
