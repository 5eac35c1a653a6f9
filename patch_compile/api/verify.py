"""`verify`: check that a build is correct and measure what pruning cost."""

from pathlib import Path
from typing import Annotated

from masklearn.base.extras import require_extra
from patch_compile.api.results import Verified
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.options import Argument, VerifyOptions

__all__ = ["verify"]


@takes(VerifyOptions)
def verify(given: Given, path: Annotated[StrPath, Argument("The folder of a build.", "OUT")]) -> Verified:
    """Answer independent questions about a finished build and write the answers to OUT/verify.

    compiled: does the hybrid ONNX compute the same as the pruned checkpoint, up to rounding? pruned: how far is the
    pruned model from the dense model? built: does the engine compute the same as the ONNX file (needs a GPU)? where:
    which linears lost the quality?

    A failed check is no error: `passed` of the result is then False. It is also False if a question of `only` could not be
    answered; without `only`, all questions are asked that the build has an answer to. Raises UsageError for an invalid
    setting, and PatchCompileError if a file of OUT was changed, or the dense model is missing or does not fit into memory.
    """
    require_extra("build", "`patch-compile verify`")
    from patch_compile.verification.request import VerifyRequest
    from patch_compile.verification.verify import verify as run

    settings = {name: value for name, value in given.items() if name != "path"}
    return Verified(run(Path(path), VerifyRequest.parse(settings)), Path(path))
