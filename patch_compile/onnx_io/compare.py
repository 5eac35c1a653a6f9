"""Outputs of ONNX models in files, and their comparison, with one output of each model in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.proof import OutputDifference
from patch_compile.debug import TENSORS, difference_lines, tell
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.own_process import run_model


@dataclass(frozen=True)
class Outputs:
    """Outputs of one model on some feeds, one file per output and run (see `output_file`)."""

    folder: Path
    outputs: tuple[str, ...]
    runs: int

    def read(self, output: int, run: int) -> NDArray[Any]:
        """Returns one output of one run."""
        return load_array(output_file(self.folder, output, run))


def load_array(path: Path) -> NDArray[Any]:
    """Read a .npy file. Raises OSError if the disk does not give all of it.

    `np.load` hands the file to a C stream, and takes a failed read for the end of the file. It can't do so with an object
    that has only `read`.
    """
    with path.open("rb") as file:
        array: NDArray[Any] = np.lib.format.read_array(SimpleNamespace(read=file.read), allow_pickle=False)
    return array


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a .npy file. Raises OSError if the disk does not take all of it.

    `np.save` does not: it hands the array to a C stream, and ignores that closing the stream, which writes the last
    kilobytes, fails. It can't do so with an object that has only `write`.
    """
    with path.open("wb") as file:
        np.lib.format.write_array(SimpleNamespace(write=file.write), array, allow_pickle=False)


def output_file(folder: Path, output: int, run: int) -> Path:
    """Returns the file that holds one output of one run. output: its number among the outputs."""
    return folder / f"{output}.{run}.npy"


def answer(path: Path, feeds: Sequence[Feed], folder: Path) -> Outputs:
    """Run a model on the feeds and save its outputs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    names: tuple[str, ...] = ()
    for run, outputs in enumerate(run_model(path, feeds)):
        names = tuple(outputs)
        for place, array in enumerate(outputs.values()):
            save_array(output_file(folder, place, run), array)
    return Outputs(folder, names, len(feeds))


def compare_answers(a: Outputs, b: Outputs) -> list[OutputDifference]:
    """Compare `a` with the reference `b`. Returns one difference per output."""
    return [_compare(a, b, place) for place in range(len(b.outputs))]


def worst_error(a: Outputs, b: Outputs, *, by_norm: bool) -> float:
    """Returns the error of the output in which `a` differs most from the reference `b`, see `OutputDifference.error`. Values
    that are not finite count as 0."""
    errors = [one.error(by_norm=by_norm) for one in compare_answers(a, b) if one.floating]
    return max((error for error in errors if error is not None), default=0.0)


def _compare(a: Outputs, b: Outputs, place: int) -> OutputDifference:
    """Returns the difference in one output. place: its number."""
    largest = scale = error = energy = 0.0
    floating = True
    for run in range(b.runs):
        mine, reference = a.read(place, run), b.read(place, run)
        tell(TENSORS, difference_lines(b.outputs[place], mine, reference))
        floating = reference.dtype.kind == "f"
        if mine.shape != reference.shape:  # for example a detector that found another number of boxes
            largest = error = np.inf
            break
        if not floating:
            unequal = (mine != reference).astype(np.float64)
            error, energy = error + unequal.sum(), energy + unequal.size
            continue
        finite = np.isfinite(reference)
        if not np.array_equal(np.isfinite(mine), finite) or (finite.size and not finite.any()):
            largest = error = np.inf
            break
        reference = reference[finite].astype(np.float64)
        apart = np.abs(mine[finite] - reference)
        largest = max(largest, float(apart.max(initial=0.0)))
        scale = max(scale, float(np.abs(reference).max(initial=0.0)))
        error, energy = error + float(np.square(apart).sum()), energy + float(np.square(reference).sum())
    relative = error / (energy or 1.0)
    return OutputDifference(
        output=b.outputs[place],
        largest=largest / (scale or 1.0) if floating else relative,
        relative=relative**0.5 if floating else relative,
        floating=floating,
    )
