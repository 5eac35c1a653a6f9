"""Warnings of outputs that moved far, and of comparisons that say little."""

from pathlib import Path

import pytest

from masklearn.masks.record import MaskRecord
from patch_compile.artifacts.proof import OutputDifference, OutputsDifference
from patch_compile.artifacts.report import Kind
from patch_compile.report.output_error import output_warnings
from tests.artifacts.examples import TOLERANCE, outputs_report


def report(relative=0.1, *, tolerance=0.01, kind=Kind.ONNX, inputs=None, floating=True):
    output = OutputDifference(output="y", largest=relative, relative=relative, floating=floating)
    allowed = TOLERANCE.model_copy(update={"share": tolerance})
    difference = OutputsDifference(outputs=(output,))
    return outputs_report(Path("out"), difference, allowed, kind=kind, learned=MaskRecord(inputs=inputs))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (report(0.97), "output 'y' by 97% of its norm. The masks were chosen without inputs"),
        (report(None), "output 'y' beyond what is finite."),
        (report(0.97, inputs="inputs.npz"), "norm. To lose less, prune less (--ratio)"),
        (report(0.97, kind=Kind.ENCODER), "norm. To lose less, prune less (--ratio)"),
        (report(0.1, tolerance=0.67), "rounding alone moves them by 67% of the largest"),
    ],
)
def test_a_warning_says_what_to_do(given, says):
    (line,) = output_warnings(given)
    assert says in line
    assert ("--calib" in line) == ("without inputs" in says or "rounding" in says or "finite" in says)


@pytest.mark.parametrize("given", [report(0.2), report(1.0, floating=False)], ids=["little", "an argmax"])
def test_no_warning(given):
    assert list(output_warnings(given)) == []
