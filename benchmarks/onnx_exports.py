"""Exports models of transformers by both exporters of torch: MiniLM, and a vision transformer of seeded random weights."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, ViTConfig, ViTModel


class _FirstOutput(nn.Module):
    """A model that returns only its last hidden state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.model(*inputs, return_dict=False)[0]
        return hidden


def export_minilm(folder: Path, path: Path, *, dynamo: bool) -> None:
    """Export the checkpoint in `folder` with dynamic batch and length."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", trust_remote_code=False)
    ids = torch.randint(5, 999, (2, 16))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    _export(model, inputs, {0: "batch", 1: "sequence"}, path, dynamo=dynamo)


def export_vit(path: Path, *, dynamo: bool) -> None:
    """Export a ViT of the size Ti with a dynamic batch."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, attn_implementation="eager"
    )
    images = torch.randn(2, 3, 224, 224)
    _export(ViTModel(config), {"pixel_values": images}, {0: "batch"}, path, dynamo=dynamo)


def _export(
    model: nn.Module, inputs: dict[str, torch.Tensor], axes: dict[int, str], path: Path, *, dynamo: bool
) -> None:
    dynamic: dict[str, Any] = {"dynamic_axes": dict.fromkeys(inputs, axes)}
    if dynamo:
        dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
        dynamic = {"dynamic_shapes": (tuple(dims for _ in inputs),)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _FirstOutput(model).eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=dynamo,
            input_names=list(inputs),
            output_names=["last_hidden_state"],
            verbose=False,
            **dynamic,
        )


def _main(name: str, exporter: str, path: str, folder: str = "") -> None:
    dynamo = exporter == "dynamo"
    if name == "minilm":
        export_minilm(Path(folder), Path(path), dynamo=dynamo)
    else:
        export_vit(Path(path), dynamo=dynamo)


if __name__ == "__main__":
    _main(*sys.argv[1:])
