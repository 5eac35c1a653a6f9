"""Identities of plugin libraries, for files that only look like one."""

from patch_compile.packing.function import VERSION
from patch_compile.plugin.targets import this_machine


def identity_text(
    backend: str = "tensorrt-rtx",
    archs: str = "800",
    *,
    version: int = VERSION,
    machine: str = this_machine(),
    kernels: str = "all",
) -> bytes:
    """Returns the identity of a library."""
    about = f"version={version} backend={backend} cuda=13.0 archs={archs} headers=10.14"
    return f"patch-linear-plugin {about} machine={machine} kernels={kernels}\0".encode()
