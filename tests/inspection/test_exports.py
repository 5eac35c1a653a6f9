"""`inspect --target` of 2:4 models that other packages exported: exports/make.py made them."""

from pathlib import Path

import pytest

from masklearn.model.checkpoint import Checkpoint
from patch_compile.inspection import inspect_path

EXPORTS = Path(__file__).resolve().parent / "exports"


@pytest.mark.parametrize("path", sorted(EXPORTS.glob("*-*")), ids=lambda path: path.name)
def test_exports_by_others_are_2_4(path):
    found = inspect_path(path, "a100-80")
    assert len(found.rows) == (2 if path.suffix else 7)
    assert {(row["pattern"], row["in 2:4 tiles"], row["groups over"]) for row in found.rows} == {
        ("2:4", 1.0, 0)
    }


def test_modelopt_rounds_no_output():
    rows = inspect_path(EXPORTS / "modelopt-int8.onnx", "a100-80").rows
    assert all(row["reason"].startswith("its Q/DQ has an output of 16 bits") for row in rows)


@pytest.mark.parametrize("scheme, weights", [("w8a8", "w8a8"), ("w4a16", "int4"), ("fp8-dynamic", None)])
def test_types_by_llmcompressor_are_kept(scheme, weights):
    grids = Checkpoint.open(EXPORTS / f"llmcompressor-{scheme}").grids
    assert {str(kind) for kind in grids.types.values()} == ({weights} if weights else set())
