"""`build_plugin`: the TensorRT plugin that runs PatchLinear."""

from typing import Literal

from patch_compile.api.results import BuiltPlugin

__all__ = ["build_plugin"]


def build_plugin(
    backend: Literal["tensorrt", "tensorrt-rtx"] | None = None, *, force: bool = False
) -> BuiltPlugin:
    """Build the TensorRT plugin that runs PatchLinear, or take it from the cache.

    backend: None takes the one that this machine has. force: build even if the cache holds it. Raises PatchCompileError
    when a tool is missing, saying which.
    """
    from patch_compile.build.plugin import build_plugin as run

    return BuiltPlugin(run(backend, force=force))
