"""The modules around a node are read from torch's metadata, and other texts under its key are passed over."""

import onnx_ir as ir
import pytest

from patch_compile.onnx_io.torch_scopes import torch_scopes


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        (None, []),
        ("['', 'layers.1', 'linear_7']", ["", "layers.1", "linear_7"]),
        *((text, []) for text in ("layers.1", "layers.1/", "{[]: 1}", "7", "(" * 5000)),
    ],
)
def test_only_lists_are_scopes(text: str | None, scopes: list[str]) -> None:
    node = ir.node("MatMul", [])
    if text is not None:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = text
    assert torch_scopes(node) == scopes
