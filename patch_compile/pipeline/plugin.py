"""The command `plugin`: compiles the TensorRT plugin that runs PatchLinear on this machine."""

from __future__ import annotations

from typing import Any

from patch_compile.progress import Progress


def build_plugin(backend: str | None, *, force: bool) -> dict[str, Any]:
    """List the tools that the plugin needs and where they are, compile it, and return the summary that is printed."""
    from patch_compile.engine.backend import BackendName, default_backend
    from patch_compile.plugin.build import build_plugin as compile_plugin
    from patch_compile.plugin.toolchain import describe_toolchain

    progress = Progress()
    if backend is None:
        name, why = default_backend()
        backend = str(BackendName.TENSORRT_RTX if name is BackendName.ONNX else name)
        progress.note(f"backend: {backend} ({why})")
    toolchain = describe_toolchain(backend)
    for item in toolchain:
        progress.note(f"{item.what}: {item.where if item.found else f'missing. {item.where} {item.fix}'}")
    with progress.stage("plugin"):
        library = compile_plugin(backend, force=force, prebuilt=False)
    places = [{"what": item.what, "found": item.where} for item in toolchain]
    return {"backend": backend, "path": str(library.path), "archs": list(library.archs), "toolchain": places}
