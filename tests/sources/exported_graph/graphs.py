"""Graphs in the forms in which other programs write the blocks of a Llama, made of the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from masklearn.model.checkpoint import Checkpoint

_TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "bfloat16": TensorProto.BFLOAT16}


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """Write a graph with its weights in a data file, as exporters do.

    Small constants stay in the graph: ONNX Runtime looks for shapes there.
    """
    onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=64)
    return path


def weights_of(model: Path) -> dict[str, NDArray[np.float32]]:
    checkpoint = Checkpoint.open(model)
    return {name: checkpoint.read(name).astype(np.float32) for name in checkpoint.names()}


class Exporter:
    """Writes the linears of two-layer models: q, k and v (joined by default), o, gate and up, and down of each layer.

    Attention is replaced by arithmetic that any runtime has: these tests are about linears. If `custom`, the last layer's
    output goes through an operator of an unknown domain to a second output.
    """

    def __init__(self, weights: dict[str, NDArray[np.float32]], dtype: str = "float16", **form: bool) -> None:
        self.weights, self.dtype = weights, dtype
        self.form = {"joined": True, "gate_up": False, "gemm": False, "custom": False, "names": True} | form
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, array: NDArray[Any]) -> str:
        if array.dtype == np.float32:
            tensor = helper.make_tensor(name, _TYPES[self.dtype], array.shape, array.ravel())
            if self.dtype == "float16":
                tensor = numpy_helper.from_array(array.astype(np.float16), name)
        else:
            tensor = numpy_helper.from_array(array, name)
        self.initializers.append(tensor)
        return name

    def node(self, op_type: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        scope = attributes.pop("scope", "")
        made = helper.make_node(op_type, inputs, list(outputs), name=f"node_{outputs[0]}", **attributes)
        if scope and self.form["names"]:
            entry = made.metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.name_scopes", f"['', '{scope}', 'linear']"
        self.nodes.append(made)
        return outputs[0]

    def product(self, x: str, names: list[str], output: str) -> str:
        """One product of linears that lie one below the other."""
        rows = [self.weights[f"{name}.weight"] for name in names]
        biases = [self.weights[f"{name}.bias"] for name in names if f"{name}.bias" in self.weights]
        weight, number = np.concatenate(rows), len(self.nodes)
        scope = names[0].rpartition(".")[0]
        if self.form["gemm"]:
            inputs = [x, self.constant(f"w_{number}", weight)]
            inputs += [self.constant(f"b_{number}", np.concatenate(biases))] if biases else []
            return self.node("Gemm", inputs, output, transB=1, scope=scope)
        held = self.constant(f"val_{number}", np.ascontiguousarray(weight.T))
        y = self.node("MatMul", [x, held], f"{output}_product" if biases else output, scope=scope)
        if biases:
            return self.node("Add", [y, self.constant(f"b_{number}", np.concatenate(biases))], output)
        return y

    def model(self, hidden: int, layers: int) -> onnx.ModelProto:
        x = "x"
        for layer in range(layers):
            x = self.block(x, f"model.layers.{layer}", f"l{layer}")
        self.node("Identity", [x], "y")
        shape, kind = ["tokens", hidden], _TYPES[self.dtype]
        inputs, outputs = (
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
        )
        opsets = [helper.make_opsetid("", 24)]
        if self.form["custom"]:
            self.node("Strange", [x], "z", domain="vendor", level=3, names=["a", "b"])
            outputs.append(helper.make_tensor_value_info("z", kind, ["tokens", "any"]))
            opsets.append(helper.make_opsetid("vendor", 7))
        graph = helper.make_graph(self.nodes, "exported", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="another")

    def block(self, x: str, path: str, tag: str) -> str:
        q, k, v = (f"{path}.self_attn.{name}_proj" for name in "qkv")
        sizes = [len(self.weights[f"{name}.weight"]) for name in (q, k, v)]
        if self.form["joined"]:
            joined = self.product(x, [q, k, v], f"{tag}_qkv")
            bounds = np.cumsum([0, *sizes])
            parts = [
                self.node("Slice", [joined, *self.bounds(f"{tag}_{i}", *bounds[i : i + 2])], f"{tag}_part{i}")
                for i in range(3)
            ]
        else:
            parts = [
                self.product(x, [name], f"{tag}_{short}")
                for name, short in zip((q, k, v), "qkv", strict=True)
            ]
        mixed = parts[0]
        for part in parts[1:]:
            mean = self.node("ReduceMean", [part, self.ints(f"{part}_axes", [1])], f"{part}_mean")
            mixed = self.node("Add", [mixed, mean], f"{part}_mixed")
        o = self.product(mixed, [f"{path}.self_attn.o_proj"], f"{tag}_o")
        x = self.node("Add", [x, o], f"{tag}_attended")
        gate, up = f"{path}.mlp.gate_proj", f"{path}.mlp.up_proj"
        if self.form["gate_up"]:
            joined = self.product(x, [gate, up], f"{tag}_gate_up")
            self.node("Split", [joined], f"{tag}_gate", f"{tag}_up", axis=-1, num_outputs=2)
        else:
            self.product(x, [gate], f"{tag}_gate")
            self.product(x, [up], f"{tag}_up")
        sigmoid = self.node("Sigmoid", [f"{tag}_gate"], f"{tag}_sigmoid")
        silu = self.node("Mul", [f"{tag}_gate", sigmoid], f"{tag}_silu")
        hidden = self.node("Mul", [silu, f"{tag}_up"], f"{tag}_hidden")
        down = self.product(hidden, [f"{path}.mlp.down_proj"], f"{tag}_down")
        return self.node("Add", [x, down], f"{tag}_out")

    def bounds(self, name: str, start: int, end: int) -> list[str]:
        ends = {"from": start, "to": end, "axis": 1}
        return [self.ints(f"{name}_{what}", [value]) for what, value in ends.items()]

    def ints(self, name: str, values: list[Any]) -> str:
        return self.constant(name, np.asarray(values, np.int64))
