"""The bisection finds a fault at every place of a graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patch_compile.verification.first_difference import find_first_difference

NODES = 23
FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32)[None]}


def chain(path: Path, wrong: int | None, value: float = 1.5) -> Path:
    """A chain x → t0 → t1 → … in which each node adds one, except that node `wrong` adds something else."""
    nodes = [
        helper.make_node(
            "Add", [f"t{i - 1}" if i else "x", "bad" if i == wrong else "one"], [f"t{i}"], f"blocks.{i}.add"
        )
        for i in range(NODES)
    ]
    constants = [numpy_helper.from_array(np.float32([v]), n) for n, v in (("one", 1.0), ("bad", value))]
    shape = [1, 8]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{NODES - 1}", TensorProto.FLOAT, shape)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("wrong", range(NODES))
def test_the_first_difference_is_named(tmp_path: Path, wrong: int) -> None:
    files = chain(tmp_path / "hybrid.onnx", wrong, -5.0), chain(tmp_path / "reference.onnx", None)
    found = find_first_difference(*files, FEED, "float16")
    assert found is not None
    named = found.tensor, found.node, found.op, found.linear
    assert named == (f"t{wrong}", f"blocks.{wrong}.add", "Add", None)
    assert found.error is not None and found.error > found.tolerance
    assert sorted(file.name for file in tmp_path.iterdir()) == ["hybrid.onnx", "reference.onnx"]


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    files = chain(tmp_path / "hybrid.onnx", 3, 1.0001), chain(tmp_path / "reference.onnx", None)
    assert find_first_difference(*files, FEED, "float16") is None
