"""The proof of an ONNX file whose linears are of type w8a8."""

import numpy as np
import pytest

from patch_compile.errors import PatchCompileError
from tests.builds import build
from tests.refusals import refused

SHAPES = {"encoder": (6, 64), "vit": (3, 32, 32)}  # of a sequence, and of an image


@pytest.mark.parametrize(
    ("model", "dynamo", "dtype"),
    [
        ("encoder", False, "float16"),
        ("encoder", False, "bfloat16"),
        ("vit", False, "float16"),
        ("vit", True, "float16"),
    ],
)
def test_a_build_of_an_onnx_file_is_proven(exported, tmp_path, model, dynamo, dtype):
    """Roundings to float16 move outputs less than inputs that they carry to another int8 number."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "inputs.npz", x=rng.standard_normal((5, 2, *SHAPES[model])).astype(np.float32))
    report = build(
        {
            "model": exported(model, dynamo),
            "calib": str(tmp_path / "inputs.npz"),
            "ratio": 0.3,
            "tile": (64, 64),
            "weights": "w8a8",
            "dtype": dtype,
            "backend": "onnx",
            "out": tmp_path / "out",
        }
    )
    assert len(report["linears"]) >= 8
    assert {row["weights"] for row in report["linears"]} == {"w8a8"}
    tolerance = report["agreement"]["tolerance"]
    assert report["agreement"]["error"] <= tolerance["share"] < 0.1
    assert tolerance["origin"] == ("rounded-inputs" if dtype == "float16" else "roundings")


def test_an_onnx_file_gets_no_static_scales(exported, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.ones((1, 2, *SHAPES["encoder"]), np.float32))
    split = {"weights": "w8a8", "lowering": "split", "ratio": 0.3, "backend": "onnx"}
    with refused(PatchCompileError):
        model, inputs = exported("encoder", False), str(tmp_path / "inputs.npz")
        build({"model": model, "calib": inputs, "out": tmp_path / "out", **split})
    assert not list(tmp_path.glob("out*"))
