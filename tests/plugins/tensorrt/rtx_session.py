"""One TensorRT-RTX process for the tests: `python -m tests.plugins.tensorrt.rtx_session COMMAND LIBRARY`.

A process has one logger and one plugin registry, and a fault in a plugin ends it, so every scenario has its own.
Prints its findings as one line of JSON, and the log to stderr.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorrt_rtx as trt
from onnx import helper

from tests.oracles.element_packing import KEPT, pack_gated, pack_slabs
from tests.oracles.integer_packing import INT4, INT8, W8A8, Quantised, pack_gated_integers, pack_integers

ROWS, COLUMNS, PANEL_ROWS = 200, 324, 64


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            print(message, file=sys.stderr)
        # Without a driver TensorRT-RTX complains of CUDA now and then and goes on.
        if severity <= trt.ILogger.Severity.ERROR and "Cuda Runtime" not in message:
            self.errors.append(message)


def register(order: str, library: str) -> dict[str, Any]:
    """Load the plugin in an order of d = dlopen, l = load_library, c = load_library of a copy, x = deregister."""
    log = Log()
    trt.Builder(log)  # creates the registry
    registry = trt.get_plugin_registry()
    handles = []
    for step in order:
        if step == "d":
            ctypes.CDLL(library)
        elif step == "l":
            handles.append(registry.load_library(library))
        elif step == "c":
            copy = Path(tempfile.mkdtemp()) / "copy.so"
            shutil.copy(library, copy)
            registry.load_library(str(copy))
        else:
            registry.deregister_library(handles.pop())
    known = [(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators]
    return {"known": [k for k in known if k[0] == "PatchLinear"], "errors": log.errors}


def create(fields: dict[str, int | str | list[int]], library: str) -> tuple[Log, Any]:
    log = Log()
    builder = trt.Builder(log)
    trt.get_plugin_registry().load_library(library)
    creator = trt.get_plugin_registry().get_creator("PatchLinear", "3", "")
    made = [
        trt.PluginField(n, np.frombuffer(v.encode(), np.int8), trt.PluginFieldType.CHAR)
        if isinstance(v, str)
        else trt.PluginField(n, np.array(np.atleast_1d(v), np.int32), trt.PluginFieldType.INT32)
        for n, v in fields.items()
    ]
    try:
        plugin = creator.create_plugin("linear", trt.PluginFieldCollection(made), trt.TensorRTPhase.BUILD)
    except Exception as error:  # the binding raises no specific type for a null plugin
        log.errors.append(str(error))
        plugin = None
    return log, (builder, plugin)


def linear_model(variant: str, columns: int) -> onnx.ModelProto:
    """One PatchLinear node with zero weights. K is `columns`, but for `shape`, where X does not have the weight's."""
    rng = np.random.default_rng(0)
    gated, residual = "gated" in variant, variant.startswith("residual")
    numbers = {"int8": INT8, "w8a8": W8A8, "int4": INT4}
    name = next((name for name in numbers if name in variant), "")
    integers = numbers.get(name, 0)
    in_features = columns if integers else COLUMNS
    kinds = len(KEPT) if variant.endswith("kinds") else 2
    codes = rng.integers(0, kinds, (-(-(1 + gated) * ROWS // PANEL_ROWS), -(-in_features // 64)))
    weight = np.zeros((1 + gated, ROWS, in_features), np.uint16)
    if integers:
        scales = np.ones((ROWS, in_features // 64) if integers == INT4 else ROWS, np.float32)
        sides = [Quantised(integers, np.zeros((ROWS, in_features), np.int8), scales)] * (1 + gated)
        half = np.dtype(np.float16)
        packed = pack_gated_integers(sides, codes, half) if gated else pack_integers(sides[0], codes, half)
    else:
        packed = pack_gated(weight, codes, PANEL_ROWS) if gated else pack_slabs(weight[0], codes, PANEL_ROWS)
    kind = onnx.TensorProto.BFLOAT16 if variant == "bf16" else onnx.TensorProto.FLOAT16
    stored = onnx.TensorProto.INT32 if integers else kind
    other = onnx.TensorProto.BFLOAT16 if variant == "mixed" else stored
    tensors = {
        "dense": (packed.dense, other),
        "sparse": (packed.sparse, stored),
        "meta": (packed.meta, onnx.TensorProto.INT32),
    }
    for one in packed.others:
        tensors[f"values_n{KEPT[one.kind]}"] = one.values, stored
        tensors[f"masks_n{KEPT[one.kind]}"] = one.masks, onnx.TensorProto.INT32
    if packed.scales is not None and variant != "int8-no-scales":
        tensors["scales"] = packed.scales, onnx.TensorProto.FLOAT
    tensors |= {
        "bias": (np.zeros(ROWS * (1 + gated), np.uint16), kind),
    }
    if variant == "nobias":
        del tensors["bias"]
    initializers = [
        helper.make_tensor(name, dtype, array.shape, array.tobytes(), raw=True)
        for name, (array, dtype) in tensors.items()
    ]
    attributes = {
        "in_features": in_features,
        "out_features": ROWS,
        "panel_rows": PANEL_ROWS,
        "kinds": ",".join(["dense", "2:4", *(f"{KEPT[one.kind]}:16" for one in packed.others)]),
    }
    attributes["index"] = packed.index.tolist()
    if integers:
        attributes["weights"] = name
    if variant == "named":
        attributes["weights"] = "float16"
    if variant == "lie":
        attributes["index"][-1] = 99
    if gated:
        attributes |= {"gated": 1, "activation": "silu"}
    if residual:
        attributes |= {"residual": 1, "activation": "gelu_tanh"}
    inputs = [helper.make_tensor_value_info("x", kind, ["batch", "tokens", columns])]
    if residual:
        wrong = variant.endswith("shape")
        inputs.append(helper.make_tensor_value_info("r", kind, ["batch", "tokens", ROWS + 4 * wrong]))
    plugin = {"plugin_namespace": "", "plugin_version": "3"}
    names = ["x", *tensors, *["r"] * residual]
    node = helper.make_node("PatchLinear", names, ["y"], domain="patch", **attributes, **plugin)
    graph = helper.make_graph(
        [node],
        "linear",
        inputs,
        [helper.make_tensor_value_info("y", kind, ["batch", "tokens", ROWS])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("patch", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def build(variant: str, library: str) -> dict[str, Any]:
    """Build an engine of one PatchLinear.

    Variants: fp16, bf16, nobias, gated, residual, kinds (of slabs: many), gated-kinds, shape (wrong), mixed (types),
    residual-shape (wrong), lie (of the index), named (the type of 16-bit weights), and int8, w8a8 or int4 of some of them.
    """
    log = Log()
    builder = trt.Builder(log)
    trt.get_plugin_registry().load_library(library)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    columns = COLUMNS + 4 if variant == "shape" else 320 if "int" in variant or "w8a8" in variant else COLUMNS
    if not parser.parse(linear_model(variant, columns).SerializeToString()):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return {"built": False, "layers": 0, "shape": [], "errors": log.errors + errors}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 3
    for i, name in enumerate(("SM80", "SM86", "SM89")):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 1, columns), (1, 128, columns), (8, 512, columns))
    if variant.startswith("residual"):
        rows = network.get_input(1).shape[-1]
        profile.set_shape("r", (1, 1, rows), (1, 128, rows), (8, 512, rows))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    shape = list(network.get_output(0).shape)
    layers = 0 if plan is None else bytes(plan).count(b"custom_layer={ name=")
    return {"built": plan is not None, "layers": layers, "shape": shape, "errors": log.errors}


def main(command: str, argument: str, library: str) -> dict[str, Any]:
    if command == "register":
        return register(argument, library)
    if command == "create":
        log, (_, plugin) = create(json.loads(argument), library)
        return {"made": plugin is not None, "errors": log.errors}
    return build(argument, library)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
