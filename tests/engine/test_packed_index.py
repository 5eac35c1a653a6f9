"""No engine is built from an ONNX file whose index lies."""

import onnx
import pytest

from patch_compile.engine.expectation import expectation_from_onnx
from tests.engine import graphs
from tests.refusals import refused


def attribute(node, name):
    return next(each for each in node.attribute if each.name == name)


def with_index(path, change):
    """Replace the index of the second linear."""
    model = onnx.load(path)
    index = attribute(next(node for node in model.graph.node if node.name == "layers.1.proj"), "index")
    values = list(index.ints)
    change(values)
    index.ints[:] = values
    onnx.save(model, path)


@pytest.mark.parametrize("place", [0, 1, 3, -1])
@pytest.mark.parametrize("value", [-1, 77, 2**31 - 1, -(2**31)])
def test_false_metadata_names_its_linear(tmp_path, place, value):
    path = graphs.write_chain(tmp_path / "m.onnx")
    with_index(path, lambda index: index.__setitem__(place, value))
    with refused():
        expectation_from_onnx(path)


@pytest.mark.parametrize("value", [2**31, 2**62, -(2**63)])
def test_a_number_beyond_32_bits_is_refused(tmp_path, value):
    path = graphs.write_chain(tmp_path / "m.onnx")
    with_index(path, lambda index: index.__setitem__(0, value))
    with refused():
        expectation_from_onnx(path)


def test_foreign_node_versions_say_rebuild(tmp_path):
    path = graphs.write_chain(tmp_path / "m.onnx")
    model = onnx.load(path)
    for node in model.graph.node[:2]:
        attribute(node, "plugin_version").s = b"3"
    onnx.save(model, path)
    with refused():
        expectation_from_onnx(path)


@pytest.mark.parametrize("kinds", [b"dense", b"dense,8:16", b"dense,2:4,12:16,8:16", None])
def test_slabs_of_other_kinds_are_refused(tmp_path, kinds):
    path = graphs.write_chain(tmp_path / "m.onnx")
    model = onnx.load(path)
    held = attribute(model.graph.node[0], "kinds")
    if kinds is None:
        model.graph.node[0].attribute.remove(held)
    else:
        held.s = kinds
    onnx.save(model, path)
    with refused():
        expectation_from_onnx(path)


@pytest.mark.parametrize("change", ["in_features", "panel_rows", "index"])
def test_a_node_that_lacks_something_is_refused(tmp_path, change):
    path = graphs.write_chain(tmp_path / "m.onnx")
    model = onnx.load(path)
    node = model.graph.node[0]
    if change == "index":
        node.attribute.remove(attribute(node, "index"))
    else:
        attribute(node, change).i = -4
    onnx.save(model, path)
    with refused():
        expectation_from_onnx(path)
