"""`debug reduce`: write one linear of a build as a model of its own."""

from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Result
from patch_compile.api.signature import StrPath, takes
from patch_compile.artifacts.layout import PLAN
from patch_compile.options import Argument


@takes(extra="build")
def reduce_linear(
    path: Annotated[
        StrPath, Argument("The folder of a build, which may have failed after its ONNX file.", "OUT")
    ],
    *,
    linear: Annotated[str, Option(f"Name of the linear, as in {PLAN}.", "NAME")],
    out: Annotated[StrPath | None, Option("Folder to write.", unset="./NAME")] = None,
) -> Result:
    """Write one linear of OUT as a model of its own.

    hybrid.onnx is the linear as it was compiled, with its weights and the other linears of its node; dense.onnx has ordinary
    products with the same zeros. inputs.npz and outputs.npz were recorded in a run of the build's ONNX file on inputs of the
    proof. The error of this linear and a command that runs hybrid.onnx are printed. A bfloat16 build is written as float32
    copies that round like it, which ONNX Runtime can run.

    Raises PatchCompileError if the folder holds no ONNX file, or if the linear is missing or an ordinary dense product.
    """
    from patch_compile.verification.reduce import reduce_linear as run

    report = run(Path(path), linear, Path(linear if out is None else out))
    return Result(report, Path(report.path))
