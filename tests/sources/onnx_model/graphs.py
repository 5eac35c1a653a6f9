"""ONNX files by both of torch's exporters, and hand-made files for odd cases."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import ViTConfig, ViTForImageClassification


class _ConvNet(nn.Module):
    """A net with a 3×3 stem, two 1×1 convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.widen = nn.Conv2d(64, 128, 1)
        self.narrow = nn.Conv2d(128, 64, 1, bias=False)
        self.head = nn.Linear(64, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.widen(torch.relu(self.stem(x))))
        x = self.narrow(x)
        return self.head(x.mean((2, 3)))


def conv_net() -> tuple[nn.Module, torch.Tensor]:
    return _ConvNet(), torch.randn(2, 3, 8, 8)


def mlp() -> tuple[nn.Module, torch.Tensor]:
    layers = (nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
    return nn.Sequential(*layers), torch.randn(4, 64)


def encoder() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(2, 6, 64)


class _Vit(nn.Module):
    """A vision transformer of transformers, from images to the scores of 12 classes."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        config = ViTConfig(image_size=32, patch_size=8, num_labels=12, attn_implementation="eager", **sizes)
        self.model = ViTForImageClassification(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model(x, return_dict=False)[0]
        return scores


def vit() -> tuple[nn.Module, torch.Tensor]:
    return _Vit(), torch.randn(2, 3, 32, 32)


def export(
    make: Callable[[], tuple[nn.Module, torch.Tensor]],
    path: Path,
    *,
    dynamo: bool = True,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Path:
    """Export a model with random weights and a dynamic batch named `batch`."""
    torch.manual_seed(3)
    model, x = make()
    with torch.no_grad():  # an encoder's layers begin as copies of each other
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    batch: dict[str, Any] = {"dynamic_axes": {"x": {0: "batch"}}}
    if dynamo:
        batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval().to(dtype),
            (x.to(dtype),),
            str(path),
            dynamo=dynamo,
            input_names=["x"],
            output_names=["y"],
            **({"verbose": False} | batch | options),
        )
    return path


def tensor(name: str, *shape: int, dtype: Any = np.float32, scale: float = 0.1) -> onnx.TensorProto:
    """A tensor of seeded normal numbers."""
    rng = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(dtype), name)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    x: Sequence[int | str] = ("batch", 64),
    y: Sequence[int | str] | None = None,
    opset: int = 20,
    elem: int = TensorProto.FLOAT,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    imports: Sequence[onnx.OperatorSetIdProto] = (),
    external: bool = False,
    **model: Any,
) -> Path:
    """Write a graph of these nodes from x to y."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", elem, list(x)), *inputs],
        [helper.make_tensor_value_info("y", elem, y)],
        list(initializers),
    )
    settings = {"opset_imports": [helper.make_opsetid("", opset), *imports], "ir_version": 10} | model
    proto = helper.make_model(graph, **settings)
    if external:
        onnx.save_model(
            proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
        )
    else:
        onnx.save_model(proto, str(path))
    return path
