"""Judging how the build of an ONNX file ended, and the table of results."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.onnx_files import Case, build_case, outcome_of, table
from benchmarks.onnx_packages import INSTALLED, WHEELS, OnnxFile, installed_file

REFUSAL = "a note\nerror: m.onnx has no linear to prune\n  why: 2 × this.\n  fix: Do that.\n"


@pytest.mark.parametrize(
    ("code", "said", "refused", "outcome"),
    [
        (0, "notes", "", "built"),
        (0, "notes", "no linear", "FAILED: built, and should be refused"),
        (0, "Traceback (most recent call last):", "", "FAILED: exit code 0"),
        (1, REFUSAL, "no linear", "refused: 2 × this."),
        (1, REFUSAL, "", "FAILED: exit code 1, m.onnx has no linear to prune"),
        (1, REFUSAL, "quantized", "FAILED: exit code 1, m.onnx has"),
        (70, "error: Internal error: KeyError", "", "FAILED: exit code 70, Internal error"),
        (-11, "", "", "FAILED: exit code -11, nothing was said"),
        (-11, REFUSAL, "no linear", "FAILED: exit code -11"),
    ],
)
def test_outcomes(code, said, refused, outcome):
    words, failed = outcome_of(code, said, refused)
    assert words.startswith(outcome)
    assert failed == outcome.startswith("FAILED")


def save(path, op):
    weight = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    values = [helper.make_tensor_value_info(name, 1, ["a.0", 128]) for name in "xy"]
    node = helper.make_node(op, ["x", "w"] if op == "MatMul" else ["x"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10, producer_name="hand"), path)


def test_a_file_is_built_and_another_refused(tmp_path):
    rows = []
    for op, file in (
        ("MatMul", OnnxFile("m.onnx", "a.0=3")),
        ("Relu", OnnxFile("m.onnx", refused="no linear")),
    ):
        save(tmp_path / "m.onnx", op)
        rows.append(build_case(Case("pack 1", tmp_path / "m.onnx", file), tmp_path / "out", 0.5))
    assert [row.outcome for row in rows] == ["built", "refused: It holds no MatMul, Gemm or Conv."]
    built, refused = table(rows).splitlines()[2:]
    assert built.startswith("| pack 1 | m.onnx | hand | 20 | 1 / 1 | ")
    assert refused.startswith("| pack 1 | m.onnx | hand | 20 |  |  |  | ")


def test_installed_files_are_listed():
    wheels = [(wheel.package.name, file.path) for wheel in WHEELS for file in wheel.files]
    assert len(set(wheels)) == len(wheels) >= 19
    assert all(installed_file(name, file).is_file() for name, files in INSTALLED.items() for file in files)
