"""ONNX files that are accepted, files that are refused before any work, and reading them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.datasets
import pytest
from onnx import TensorProto, helper

from patch_compile.inspection import inspect_path
from patch_compile.onnx_io.read import read_onnx
from patch_compile.onnx_io.write import write_onnx
from patch_compile.passes.find_linears import linears_of_file
from tests.refusals import refused
from tests.sources.onnx_model import graphs

X = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)


def run(path, x=X):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def product(path, **options):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    return graphs.save(path, nodes, [graphs.tensor("w", 64, 64)], **options)


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
def test_older_opsets_are_upgraded_and_compute_the_same(tmp_path, opset):
    path = graphs.export(graphs.mlp, tmp_path / "m.onnx", dynamo=False, opset_version=opset)
    model = read_onnx(path)
    assert model.graph.opset_imports[""] == 20
    write_onnx(model, tmp_path / "upgraded.onnx")
    assert np.array_equal(run(path), run(tmp_path / "upgraded.onnx"))


@pytest.mark.parametrize("change", [{"opset": 99}, {"ir_version": 99}])
def test_versions_newer_than_the_library(tmp_path, change):
    with refused():
        read_onnx(product(tmp_path / "m.onnx", **change))


RELU = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in "ab"]
BODY = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "body", RELU[:1], RELU[1:])
# Nodes that are refused, and what they need.
REFUSED = {
    # onnx has no conversion for Upsample with opset 7's attribute.
    "no upgrade": (
        [
            helper.make_node("Upsample", ["x"], ["u"], "up", scales=[1.0, 1.0], mode="nearest"),
            helper.make_node("Scan", ["u"], ["y"], "scan", num_scan_inputs=1, body=BODY),
        ],
        {"opset": 7, "ir_version": 4},
    ),
    "a domain that nothing runs": (
        [helper.make_node("Frobnicate", ["x"], ["y"], "odd", domain="acme")],
        {"imports": [helper.make_opsetid("acme", 1)]},
    ),
    "a domain without opset": ([helper.make_node("Gelu", ["x"], ["y"], "gelu", domain="com.microsoft")], {}),
    "the result of a build": (
        [helper.make_node("PatchLinear", ["x"], ["y"], domain="patch")],
        {"imports": [helper.make_opsetid("patch", 1)]},
    ),
    "weights of four bits": (
        [helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("Mul", ["x", "f"], ["y"])],
        {
            "initializers": [helper.make_tensor("w", TensorProto.INT4, [4], [1, 2, 3, 4])],
            "x": ("batch", 4),
            "opset": 21,
        },
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_nothing_here_runs_are_refused(tmp_path, name):
    nodes, settings = REFUSED[name]
    path = graphs.save(tmp_path / "m.onnx", nodes, **settings)
    with refused():
        read_onnx(path)


def external(key, value):
    """Returns a change of an entry on the external data of the weight."""

    def change(graph):
        (entry,) = (entry for entry in graph.initializer[0].external_data if entry.key == key)
        entry.value = value

    return change


@pytest.mark.parametrize(
    ("change", "stored_outside", "why"),
    [
        (lambda graph: graph.output.pop(), False, ""),
        (lambda graph: setattr(graph.initializer[0], "data_type", TensorProto.BFLOAT16), False, ""),
        (lambda graph: graph.initializer[0].dims.__setitem__(slice(None), [-64, -64]), True, "negative"),
        (external("length", "16000"), True, "not 16000"),
        *((external("offset", offset), True, "") for offset in ("-64", "9" * 5000, "x")),
        *((external("location", place), True, "") for place in ("/etc/passwd", "../weights.bin")),
    ],
    ids=(
        "no output", "bytes of another type", "a negative shape", "another length", "a negative offset", "a long offset",
        "a word for an offset", "an absolute path", "a path outside",
    ),
)  # fmt: skip
def test_files_that_lie_are_refused(tmp_path, change, stored_outside, why):
    path = product(tmp_path / "m.onnx", external=stored_outside)
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    path.write_bytes(proto.SerializeToString())
    with refused() as refusal:
        read_onnx(path)
    assert why in refusal.error.why


def test_the_standard_domain_may_be_spelled_out(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "fc", domain="ai.onnx")]
    path = graphs.save(
        tmp_path / "m.onnx",
        nodes,
        [graphs.tensor("w", 64, 64)],
        opset_imports=[helper.make_opsetid("ai.onnx", 13)],
    )
    model = read_onnx(path)
    assert model.graph.opset_imports[""] == 20
    assert list(linears_of_file(path, model).linears) == ["fc"]


def test_a_function_of_the_model_is_inlined(tmp_path):
    body = [helper.make_node("MatMul", ["a", "b"], ["c"], "product")]
    function = helper.make_function("acme", "Linear", ["a", "b"], ["c"], body, [helper.make_opsetid("", 20)])
    path = graphs.save(
        tmp_path / "m.onnx",
        [helper.make_node("Linear", ["x", "w"], ["y"], domain="acme")],
        [graphs.tensor("w", 64, 32)],
        imports=[helper.make_opsetid("acme", 1)],
        functions=[function],
    )
    (linear,) = linears_of_file(path, read_onnx(path)).linears.values()
    assert linear.shape == (32, 64)


class TestFile:
    def test_a_classical_model_that_returns_a_map(self):
        path = Path(ort.datasets.get_example("logreg_iris.onnx"))
        with refused():
            read_onnx(path)

    @pytest.mark.parametrize(
        "change",
        [
            None,
            lambda _: b"",
            lambda _: b"not a model" * 9,
            lambda _: b"\x00" * 64,
            lambda model: model[:-1000],
        ],
        ids=("missing", "empty", "text", "zeros", "truncated"),
    )
    def test_not_a_model(self, tmp_path, change):
        path = product(tmp_path / "m.onnx")
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()))
        with refused():
            read_onnx(path)


def functions(depth, calls, *, circle=False):
    """A model of functions, each of which calls the next one `calls` times; in a circle, the last one calls the first."""

    def call(level):
        return helper.make_node(f"F{level}", ["x"], ["y"], domain="own")

    made = []
    for level in range(depth):
        last = helper.make_node("Identity", ["x"], ["y"])
        body = [call(level + 1)] * calls if level + 1 < depth else [call(0) if circle else last]
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", f"F{level}", ["x"], ["y"], body, opsets))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([call(0)], "g", values[:1], values[1:])
    return helper.make_model(
        graph, functions=made, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    )


@pytest.mark.parametrize(
    "model",
    [functions(25, 2), functions(3, 1, circle=True), functions(80, 1)],
    ids=["exponential", "circle", "deep"],
)
@pytest.mark.parametrize("reader", [read_onnx, inspect_path])
def test_functions_are_counted_before_they_are_inlined(tmp_path, model, reader):
    onnx.save(model, tmp_path / "m.onnx")
    with refused():
        reader(tmp_path / "m.onnx")


@pytest.mark.parametrize("shape", [(0, 64), (64, 0)])
def test_an_empty_weight_stays_dense(tmp_path, shape):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, shape, [])
    path = graphs.save(tmp_path / "m.onnx", nodes, [weight])
    with refused():
        linears_of_file(path, read_onnx(path))


class TestExternalData:
    def test_external_data_may_lie_behind_links(self, tmp_path):
        (tmp_path / "blobs").mkdir()
        path = product(tmp_path / "blobs" / "m.onnx", external=True)
        snapshot = tmp_path / "snapshots" / "main"
        snapshot.mkdir(parents=True)
        for file in (path, path.with_name("weights.bin")):
            (snapshot / file.name).symlink_to(file)
        write_onnx(read_onnx(snapshot / "m.onnx"), tmp_path / "copy.onnx")
        assert np.array_equal(run(tmp_path / "copy.onnx"), run(path))

    def test_missing(self, tmp_path):
        path = product(tmp_path / "m.onnx", external=True)
        path.with_name("weights.bin").unlink()
        with refused():
            read_onnx(path)

    def test_short(self, tmp_path):
        path = product(tmp_path / "m.onnx", external=True)
        data = path.with_name("weights.bin")
        data.write_bytes(data.read_bytes()[:-4])
        with refused() as found:
            read_onnx(path)
        assert "It ends at byte" in found.error.why

    def test_behind_a_link_that_leads_out(self, tmp_path):
        (tmp_path / "model").mkdir()
        path = product(tmp_path / "model" / "m.onnx", external=True)
        path.with_name("weights.bin").rename(tmp_path / "outside.bin")
        path.with_name("weights.bin").symlink_to("../outside.bin")
        with refused():
            read_onnx(path)


def test_weights_that_are_inputs_too_are_constants(tmp_path):
    """IR version 3 requires every initializer to be an input."""
    given = helper.make_tensor_value_info("w", 1, [64, 64])
    path = product(tmp_path / "m.onnx", inputs=[given], ir_version=3, opset=8)
    model = read_onnx(path)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert list(linears_of_file(path, model).linears) == ["fc"]


def test_weights_in_constant_nodes(tmp_path):
    nodes = [helper.make_node("Constant", [], ["w"], value=graphs.tensor("w", 64, 64))]
    nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"], "fc"))
    path = graphs.save(tmp_path / "m.onnx", nodes)
    assert list(linears_of_file(path, read_onnx(path)).linears) == ["fc"]
