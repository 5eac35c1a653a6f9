"""Generates text with a build of `patch-compile build`: its engine on a GPU, or its ONNX file on ONNX Runtime.

    generator = open_generator("OUT")
    for piece in generator.stream(["The capital of France is"], new_tokens=20):
        print(piece.text, end="")

This package does not need PyTorch.
"""

from patch_compile.engine.backend import Runner
from patch_compile.runtime.continuation import Finish, Piece
from patch_compile.runtime.generator import Completion, Generator
from patch_compile.runtime.locate import open_generator
from patch_compile.runtime.sampling import Sampling

__all__ = [
    "Completion", "Finish", "Generator", "Piece", "Runner", "Sampling", "open_generator",
]  # fmt: skip
