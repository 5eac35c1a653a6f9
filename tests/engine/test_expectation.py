import numpy as np
import onnx
import pytest

from patch_compile.engine.expectation import expectation_from_onnx
from patch_compile.packing.format import pack, pack_together
from patch_compile.packing.index import gated_panels
from patch_compile.planning.split import PART
from tests.engine import graphs
from tests.refusals import refused


@pytest.fixture
def broken(tmp_path):
    """Write a chain, change its graph, and compute the expectation."""

    def run(change):
        path = graphs.write_chain(tmp_path / "m.onnx")
        model = onnx.load(path)
        change(model.graph)
        onnx.save(model, path)
        return expectation_from_onnx(path)

    return run


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_names_bytes_and_type(tmp_path, dtype):
    path = graphs.write_chain(tmp_path / "m.onnx", dtype=dtype, shares=(0.5, 0.0, 1.0))
    expected = expectation_from_onnx(path)
    assert list(expected.patch_linears) == ["layers.0.proj", "layers.1.proj", "layers.2.proj"]
    assert expected.dtype == dtype
    mask, _ = graphs.random_mask((128, 128), (64, 64), 0.5, 0)
    packed = pack(graphs.random_weight((128, 128), "u2", 0), mask, 64)
    assert expected.patch_linears["layers.0.proj"] == packed.nbytes - packed.index.nbytes
    assert expected.packed_bytes == sum(expected.patch_linears.values())


def test_gate_and_up_count_both_bytes(tmp_path):
    expected = expectation_from_onnx(graphs.write_mlp(tmp_path / "m.onnx"))
    assert list(expected.patch_linears) == ["mlp.gate_proj+up_proj", "mlp.down_proj"]
    masks = [
        graphs.random_mask((128, 128), (64, 64), share, seed)[0] for seed, share in enumerate((0.5, 1.0))
    ]
    packed = pack_together([(np.zeros((128, 128), "u2"), mask) for mask in masks], 64, gated_panels(128, 64))
    assert expected.patch_linears["mlp.gate_proj+up_proj"] == packed.nbytes - packed.index.nbytes


def test_external_data_is_not_read(tmp_path):
    path = graphs.write_chain(tmp_path / "m.onnx", external=True)
    whole = expectation_from_onnx(path)
    (tmp_path / "m.onnx.data").unlink()
    assert expectation_from_onnx(path) == whole


def test_graph_without_linears(tmp_path):
    expected = expectation_from_onnx(graphs.write_two_gemms(tmp_path / "m.onnx"))
    assert (expected.patch_linears, expected.dtype, expected.packed_bytes) == ({}, None, 0)


def test_products_and_the_parts_of_a_split(tmp_path):
    path = graphs.write_two_gemms(tmp_path / "m.onnx")
    expected = expectation_from_onnx(path)
    assert (expected.sparse_parts, expected.products) == (frozenset(), frozenset({"gemm0", "gemm1"}))
    model = onnx.load(path)
    for node, part in zip(model.graph.node, ("dense", "sparse"), strict=False):
        node.metadata_props.add(key=PART, value=part)
    onnx.save(model, path)
    expected = expectation_from_onnx(path)
    assert (expected.sparse_parts, expected.products) == (frozenset({"gemm1"}), frozenset({"gemm0"}))


def to_bfloat16(graph):
    (dense,) = [tensor for tensor in graph.initializer if tensor.name == "layers.1.proj.dense"]
    dense.data_type = onnx.TensorProto.BFLOAT16


def attribute(node, name):
    return next(each for each in node.attribute if each.name == name)


def index(place, value):
    """Returns a change of a number of the second linear's index."""
    return lambda graph: attribute(graph.node[1], "index").ints.__setitem__(place, value)


def without(name):
    return lambda graph: graph.node[0].attribute.remove(attribute(graph.node[0], name))


def text(name, value):
    return lambda graph: setattr(attribute(graph.node[0], name), "s", value)


def number(name, value):
    return lambda graph: setattr(attribute(graph.node[0], name), "i", value)


# Numbers of the index that lie, and numbers beyond 32 bits.
INDICES = [
    *((place, value) for place in (0, 1, 3, -1) for value in (-1, 77, 2**31 - 1, -(2**31))),
    *((0, value) for value in (2**31, 2**62, -(2**63))),
]
CHANGES = {
    **{f"{value} at {place} of the index": index(place, value) for place, value in INDICES},
    "two nodes of one name": lambda graph: setattr(graph.node[1], "name", "layers.0.proj"),
    "a node without a name": lambda graph: setattr(graph.node[1], "name", ""),
    "a packed tensor that is computed": lambda graph: graph.node[1].input.__setitem__(2, "computed"),
    "mixed types": to_bfloat16,
    "the plugin of another version": text("plugin_version", b"2"),
    "no 2:4 slabs": text("kinds", b"dense"),
    "8:16 slabs in place of 2:4": text("kinds", b"dense,8:16"),
    "kinds in another order": text("kinds", b"dense,2:4,12:16,8:16"),
    "no kinds": without("kinds"),
    "no index": without("index"),
    "a negative size": number("in_features", -4),
    "panels of a negative height": number("panel_rows", -4),
}


@pytest.mark.parametrize("change", CHANGES)
def test_broken_graphs_are_refused(broken, change):
    with refused():
        broken(CHANGES[change])
