"""Reads the layers of a full TensorRT engine through its engine inspector, on the GPU that the engine was built for.

The result has the types of `plan_program`. The JSON is documented in NVIDIA's pages "Engine Inspector" and "Migrating
from TensorRT 10 to 11": `Format/Datatype` of version 10 became `DataType` and `Format`.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any

from patch_compile.engine.backend import Backend
from patch_compile.engine.plan_program import PLUGIN, PlanLayer, PlanProgram, PlanTensor
from patch_compile.errors import PatchCompileError

_DTYPES = (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp16", "float16"), ("half", "float16"))
_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "int32": 4}


def inspect_engine(
    backend: Backend, engine: Path, targets: tuple[str, ...], *, host_code: bool = False
) -> tuple[PlanProgram, ...]:
    """Returns the layers of an engine, as one program. The engine must be built with detailed profiling verbosity.

    host_code: run the code of the plugin inside the engine, if the engine contains a plugin; TensorRT then needs it to load
    the engine.

    Raises PatchCompileError when the engine does not load.
    """
    trt = backend.trt
    runtime = trt.Runtime(backend.logger)
    runtime.engine_host_code_allowed = host_code
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        raise PatchCompileError(
            f"The engine {engine.name} does not load",
            "TensorRT's log above has the reason.",
            "Build it again with the versions of this machine.",
        )
    inspector = loaded.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return (program_from_json(json.loads(text), targets),)


def program_from_json(information: dict[str, Any], targets: tuple[str, ...]) -> PlanProgram:
    """Converts the inspector's JSON to a program for `targets`."""
    layers = [layer for layer in information["Layers"] if isinstance(layer, dict)]
    tensors = {tensor["Name"]: _tensor(tensor) for layer in layers for tensor in layer.get("Inputs", ())}
    return PlanProgram(targets, tuple(_layer(layer) for layer in layers), tensors)


def _layer(layer: dict[str, Any]) -> PlanLayer:
    kind = str(layer.get("LayerType", ""))
    inputs = tuple(tensor["Name"] for tensor in layer.get("Inputs", ()))
    metadata = str(layer.get("Metadata", ""))
    return PlanLayer.named(PLUGIN if "plugin" in kind.lower() else kind, str(layer["Name"]), inputs, metadata)


def _tensor(tensor: dict[str, Any]) -> PlanTensor:
    spelled = str(tensor.get("DataType") or tensor.get("Format/Datatype", "")).lower()
    dtype = next((dtype for word, dtype in _DTYPES if word in spelled), spelled)
    dtype = "int32" if "int32" in dtype else dtype
    dims = tuple(size if size >= 0 else None for size in tensor.get("Dimensions", ()))
    known = [size for size in dims if size is not None]
    item = _ITEM_BYTES.get(dtype)
    return PlanTensor(dtype, dims, math.prod(known) * item if item and len(known) == len(dims) else None)
