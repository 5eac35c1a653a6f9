"""No engine is built from an ONNX file whose index lies."""

import onnx
import pytest
from onnx import numpy_helper

from patch_compile.engine.packed_index import check_indexes
from patch_compile.errors import PatchCompileError
from tests.engine import graphs


def with_index(path, change):
    """Replace the index of the second linear."""
    model = onnx.load(path)
    for stored in model.graph.initializer:
        if stored.name == "layers.1.proj.index":
            index = numpy_helper.to_array(stored).copy()
            change(index)
            stored.CopyFrom(numpy_helper.from_array(index, stored.name))
    onnx.save(model, path)


@pytest.mark.parametrize("external", [False, True])
def test_a_true_index_is_taken(tmp_path, external):
    check_indexes(graphs.write_chain(tmp_path / "m.onnx", external=external))
    check_indexes(graphs.write_mlp(tmp_path / "mlp.onnx"))


@pytest.mark.parametrize("place", [0, 1, 3, -1])
@pytest.mark.parametrize("value", [-1, 77, 2**31 - 1, -(2**31)])
def test_a_lie_is_refused_with_the_name_of_the_linear(tmp_path, place, value):
    path = graphs.write_chain(tmp_path / "m.onnx")
    with_index(path, lambda index: index.__setitem__(place, value))
    with pytest.raises(PatchCompileError, match=r"'layers\.1\.proj' of .* is damaged") as refused:
        check_indexes(path)
    assert str(value) in refused.value.why


@pytest.mark.parametrize("change", ["in_features", "panel_rows", "index"])
def test_a_node_that_lacks_something_is_refused(tmp_path, change):
    path = graphs.write_chain(tmp_path / "m.onnx")
    model = onnx.load(path)
    node = model.graph.node[0]
    if change == "index":
        node.input[4] = "x"
    else:
        next(a for a in node.attribute if a.name == change).i = -4
    onnx.save(model, path)
    with pytest.raises(PatchCompileError, match="is damaged"):
        check_indexes(path)
