"""Writes test graphs with their weights in a data file, as exporters do."""

from pathlib import Path

import onnx

__all__ = ["saved"]


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    """Small constants stay in the graph: ONNX Runtime looks for shapes there."""
    onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=64)
    return path
