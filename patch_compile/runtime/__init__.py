"""Generate text with what `patch-compile build` wrote: its engine on a GPU, or its ONNX file on ONNX Runtime.

    generator = open_generator("OUT")
    for piece in generator.stream(["The capital of France is"], new_tokens=20):
        print(piece.text, end="")

Nothing here needs PyTorch.
"""

from patch_compile.runtime.generator import Completion, Finish, Generator, Piece
from patch_compile.runtime.locate import Runner, open_generator
from patch_compile.runtime.sampling import Sampling

__all__ = ["Completion", "Finish", "Generator", "Piece", "Runner", "Sampling", "open_generator"]
