"""Identities of plugin libraries, for files that only look like one."""

from patch_compile.packing.function import VERSION
from patch_compile.plugin.targets import this_machine


def identity_text(
    backend: str = "tensorrt-rtx",
    archs: str = "800",
    *,
    version: int = VERSION,
    machine: str | None = this_machine(),
    kernels: str | None = None,
) -> bytes:
    """Returns the identity of a library. machine, kernels: None for a library that does not name them, as older ones."""
    named = (f" machine={machine}" if machine else "") + (f" kernels={kernels}" if kernels else "")
    about = f"version={version} backend={backend} cuda=13.0 archs={archs} headers=10.14{named}"
    return f"patch-linear-plugin {about}\0".encode()
