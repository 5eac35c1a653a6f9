"""What is used of TensorRT's Python module, with the types of its stubs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TensorRtApi"]


class TensorRtApi(Protocol):
    """The module `tensorrt`, or `tensorrt_rtx`, as far as both have it: constructors and enums.

    Which of them it is comes out at run time, so a type checker is told here what it is; a test compares the names with
    the module that is installed.
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
        """The registry of the process."""
