"""Hugging Face model → ONNX graph that knows every weight by name and shape and holds none."""

from patch_compile.export.architectures import COVERED_ARCHITECTURES, load_config
from patch_compile.export.model import export_model

__all__ = ["COVERED_ARCHITECTURES", "export_model", "load_config"]
