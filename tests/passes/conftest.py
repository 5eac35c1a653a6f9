from tests.sources.onnx_model.conftest import exported

__all__ = ["exported"]
