"""`build_plugin`: compile the TensorRT plugin that runs PatchLinear."""

from typing import Annotated, Literal

from masklearn.base.option import Option
from patch_compile.api.results import Result
from patch_compile.api.signature import takes


@takes()
def build_plugin(
    backend: Annotated[Literal["tensorrt", "tensorrt-rtx"] | None, Option(
        "TensorRT to build the plugin for.", unset="the best that this machine has")] = None,
    *,
    force: Annotated[bool, Option("Build it even if the cache has it.")] = False,
) -> Result:  # fmt: skip
    """Build the TensorRT plugin that runs PatchLinear.

    A plugin in the cache is not built again. The tools that built the plugin are listed.

    Raises PatchCompileError with the name of a tool that is missing.
    """
    from patch_compile.engine.backend import BackendName, default_backend
    from patch_compile.plugin import build as plugin
    from patch_compile.plugin.toolchain import describe_toolchain
    from patch_compile.progress import Progress

    progress = Progress()
    library: str | None = backend
    if library is None:
        name, why = default_backend()
        library = str(BackendName.TENSORRT_RTX if name is BackendName.ONNX else name)
        progress.note(f"backend: {library} ({why})")
    tools = describe_toolchain(library)
    for tool in tools:
        progress.note(f"{tool.what}: {tool.where if tool.found else f'missing. {tool.where} {tool.fix}'}")
    with progress.stage("plugin"):
        built = plugin.build_plugin(library, force=force, prebuilt=False)
    places = [{"what": tool.what, "found": tool.where} for tool in tools]
    report = {"backend": library, "path": str(built.path), "archs": list(built.archs), "toolchain": places}
    return Result(report, built.path)
