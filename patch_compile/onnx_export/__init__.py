"""Exports a Hugging Face model to an ONNX graph that has the name and shape of every weight but no data."""

from patch_compile.onnx_export.architectures import load_config
from patch_compile.onnx_export.model import export_model

__all__ = ["export_model", "load_config"]
