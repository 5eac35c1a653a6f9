"""`verify`: check that a build is correct and measure what pruning cost."""

from pathlib import Path
from typing import Annotated

from patch_compile.api.results import Verified
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.options import Argument, VerifyOptions


@takes(VerifyOptions, extra="build")
def verify(given: Given, path: Annotated[StrPath, Argument("The folder of a build.", "OUT")]) -> Verified:
    """Check OUT, and measure where pruning lost quality.

    Questions are answered separately; without `only`, all questions are asked that the build can answer. Compiled: does the
    hybrid ONNX compute the same as the pruned checkpoint, up to rounding? Pruned: how far is the pruned checkpoint from
    the dense model? Built: does the engine compute the same as the ONNX file (needs a GPU)? Where: which linears lost the
    quality? Answers, inputs and outputs are written to OUT/verify, and shown in OUT/report.html.

    PASSED means that every question asked has an answer and no check failed; `passed` of the result says so. The exit code
    is 3 if a check fails, and 5 (NOT CHECKED) if none fails but a question has no answer, such as Built on a machine
    without a GPU: leave such a question out with `only`.

    Raises UsageError for an invalid setting, and PatchCompileError if a file of OUT was changed, or the dense model is
    missing or does not fit into memory.
    """
    from patch_compile.verification.request import VerifyRequest
    from patch_compile.verification.verify import verify as run

    settings = {name: value for name, value in given.items() if name != "path"}
    return Verified(run(Path(path), VerifyRequest.parse(settings)), Path(path))
