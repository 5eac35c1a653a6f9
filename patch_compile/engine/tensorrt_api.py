"""Type of TensorRT's Python module, as far as this package uses it, and its shapes and types as NumPy has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorrt

__all__ = ["TensorRtApi", "numpy_of", "sizes_of"]


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


def sizes_of(dims: tensorrt.Dims) -> tuple[int, ...]:
    """Returns a shape as a tuple."""
    return tuple(dims[axis] for axis in range(len(dims)))


def numpy_of(dtype: tensorrt.DataType) -> np.dtype[Any]:
    """Returns the type of the array that holds a tensor. Raises KeyError for a type that no input or output here has."""
    import ml_dtypes

    names: dict[str, Any] = {
        "HALF": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "FLOAT": np.float32,
        "INT32": np.int32,
        "INT64": np.int64,
        "BOOL": np.bool_,
        "INT8": np.int8,
        "UINT8": np.uint8,
    }
    found: np.dtype[Any] = np.dtype(names[dtype.name])
    return found
