"""`build_plugin`: compile the TensorRT plugin that runs PatchLinear."""

from typing import Literal

from patch_compile.api.results import BuiltPlugin

__all__ = ["build_plugin"]


def build_plugin(
    backend: Literal["tensorrt", "tensorrt-rtx"] | None = None, *, force: bool = False
) -> BuiltPlugin:
    """Compile the TensorRT plugin that runs PatchLinear, or take it from the cache.

    backend: None takes the backend that this machine has. force: compile even if the cache has the plugin. Raises
    PatchCompileError that names the tool if one is missing.
    """
    from patch_compile.pipeline.plugin import build_plugin as run

    return BuiltPlugin(run(backend, force=force))
