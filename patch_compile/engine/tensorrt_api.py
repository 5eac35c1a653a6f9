"""Type of TensorRT's Python module, as far as this package uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TensorRtApi"]


class TensorRtApi(Protocol):
    """The module `tensorrt` or `tensorrt_rtx`: constructors and enums that both have.

    The module is chosen at run time, so a type checker can't see its members. A test compares the names below with the
    installed module.
    """

    __version__: str
    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    Dims: type[tensorrt.Dims]
    HardwareCompatibilityLevel: type[tensorrt.HardwareCompatibilityLevel]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]
    IStreamWriter: type[tensorrt.IStreamWriter]
    LayerInformationFormat: type[tensorrt.LayerInformationFormat]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]

    def get_plugin_registry(self) -> tensorrt.IPluginRegistry:
        """Returns the plugin registry of the process."""
