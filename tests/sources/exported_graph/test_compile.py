"""`compile --graph` puts PatchLinear into graphs of other exporters, and leaves the rest as it was."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

import patch_compile
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from patch_compile.artifacts.plan import ReasonKind
from tests.mosaics import random_mask
from tests.refusals import refused
from tests.sources.exported_graph.graphs import Exporter, saved, weights_of

pytestmark = pytest.mark.quick

HIDDEN = 128
SIZES = {"hidden_size": HIDDEN, "intermediate_size": 192, "num_hidden_layers": 2}


@pytest.fixture
def model(make_model):
    path = make_model(**SIZES)
    file = path / "model.safetensors"
    # Small numbers, so that two blocks without norms stay in the range of float16.
    save_file({name: value * 0.1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    return path


@pytest.fixture
def masks(model, tmp_path):
    return masks_of(model, tmp_path / "masks.safetensors")


def masks_of(model, path, tile=(64, 64)):
    made = {
        name: random_mask(shape, tile, 0.6, seed)[0]
        for seed, (name, shape) in enumerate(covered_linears(model).linears.items())
    }
    MaskSet(
        made,
        method="random",
        seed=0,
        base_model="",
        base_sha256=Checkpoint.open(model).fingerprint(),
        ratio_asked=0.3,
    ).save(path)
    return path


def masked(weights, masks):
    """W∘M of every linear, without the code under test."""
    kept = {f"{name}.weight": mask.keep() for name, mask in MaskSet.load(masks).items()}
    return {name: np.where(kept[name], w, 0) if name in kept else w for name, w in weights.items()}


def run(path, feed):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0].astype(np.float64)


def compiled(model, masks, graph, out, **settings):
    settings = {"lowering": "plugin"} | settings
    return patch_compile.compile(model, out, mask=masks, graph=graph, **settings)


def nodes_of(path):
    return onnx.load(path, load_external_data=False).graph.node


@pytest.mark.parametrize(
    ("form", "nodes"),
    [
        ({}, 2 * 4),  # q, k and v together, o, gate and up, down
        ({"gate_up": True}, 2 * 4),
        ({"joined": False}, 2 * 6),  # nothing here cuts q, k and v into heads
        ({"gemm": True}, 2 * 4),
        ({"fuse": "none"}, 2 * 7),
        ({"dtype": "float32"}, 2 * 4),
    ],
)
def test_hybrids_equal_the_masked_graph(model, masks, tmp_path, form, nodes):
    settings = {key: form.pop(key) for key in ("fuse",) if key in form}
    weights = weights_of(model)
    dtype = form.get("dtype", "float16")
    graph = saved(Exporter(weights, **form).model(HIDDEN, 2), tmp_path / "exported.onnx")
    result = compiled(model, masks, graph, tmp_path / "out", **settings)
    made = made_in(tmp_path)
    onnx.checker.check_model(str(made))
    assert sum(node.domain == "patch" for node in nodes_of(made)) == nodes
    assert all(row.lowering == "plugin" for row in result.report.linears)

    reference = saved(Exporter(masked(weights, masks), **form).model(HIDDEN, 2), tmp_path / "reference.onnx")
    for tokens in (1, 5):
        x = np.random.default_rng(tokens).standard_normal((tokens, HIDDEN)).astype(dtype)
        expected, dense = run(reference, {"x": x}), run(graph, {"x": x})
        found = run(made, {"x": x})
        assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
        assert np.abs(dense - expected).max() > 0.03 * np.abs(expected).max()


def test_all_else_stays_byte_for_byte(model, masks, tmp_path):
    """Only the products and operations fused to them are replaced; operators of unknown domains stay."""
    graph = saved(Exporter(weights_of(model), custom=True).model(HIDDEN, 2), tmp_path / "exported.onnx")
    compiled(model, masks, graph, tmp_path / "out")
    before, after = (onnx.load(path, load_external_data=False) for path in (graph, made_in(tmp_path)))
    left = [node.SerializeToString(deterministic=True) for node in after.graph.node if node.domain != "patch"]
    had = [node.SerializeToString(deterministic=True) for node in before.graph.node]
    assert [node for node in had if node in left] == left
    gone = [
        node.op_type for node in before.graph.node if node.SerializeToString(deterministic=True) not in left
    ]
    fused = ["MatMul", "MatMul", "Add", "MatMul", "MatMul", "Sigmoid", "Mul", "Mul", "MatMul", "Add"]
    assert gone == 2 * fused
    for field in ("input", "output"):
        one, other = (getattr(proto.graph, field) for proto in (before, after))
        assert [v.SerializeToString(deterministic=True) for v in one] == [
            v.SerializeToString(deterministic=True) for v in other
        ]
    assert {(one.domain, one.version) for one in before.opset_import} <= {
        (one.domain, one.version) for one in after.opset_import
    }


def test_linears_that_are_compiled_dense_keep_their_nodes(model, masks, tmp_path):
    """A joined product stays whole if none of its linears is packed, and is divided if one is."""
    weights = weights_of(model)
    graph = saved(Exporter(weights).model(HIDDEN, 2), tmp_path / "exported.onnx")
    compiled(model, masks, graph, tmp_path / "out", lowering="dense")
    assert nodes_of(made_in(tmp_path)) == nodes_of(graph)
    found, expected = (arrays(path) for path in (made_in(tmp_path), graph))
    reference = arrays_of(Exporter(masked(weights, masks)).model(HIDDEN, 2))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, reference[name])

    compiled(model, masks, graph, tmp_path / "out", lowering="*=dense,v_proj=plugin,k_proj=split", force=True)
    x = np.random.default_rng(0).standard_normal((3, HIDDEN)).astype(np.float16)
    whole = saved(Exporter(masked(weights, masks)).model(HIDDEN, 2), tmp_path / "reference.onnx")
    expected = run(whole, {"x": x})
    assert np.abs(run(made_in(tmp_path), {"x": x}) - expected).max() < 0.01 * np.abs(expected).max()


def test_biases_of_a_joined_product_are_divided(make_model, tmp_path):
    model = make_model("qwen2", **SIZES)
    file = model / "model.safetensors"
    save_file({name: value * 0.1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    masks, weights = masks_of(model, tmp_path / "masks.safetensors"), weights_of(model)
    graph = saved(Exporter(weights).model(HIDDEN, 2), tmp_path / "exported.onnx")
    compiled(model, masks, graph, tmp_path / "out")
    assert sum(node.domain == "patch" for node in nodes_of(made_in(tmp_path))) == 8
    reference = saved(Exporter(masked(weights, masks)).model(HIDDEN, 2), tmp_path / "reference.onnx")
    x = np.random.default_rng(1).standard_normal((3, HIDDEN)).astype(np.float16)
    expected = run(reference, {"x": x})
    assert np.abs(run(made_in(tmp_path), {"x": x}) - expected).max() < 0.01 * np.abs(expected).max()


def test_a_graph_of_the_pruned_model_is_taken(model, masks, tmp_path, capsys):
    graph = saved(Exporter(masked(weights_of(model), masks)).model(HIDDEN, 2), tmp_path / "exported.onnx")
    result = compiled(model, masks, graph, tmp_path / "out")
    assert all(row.lowering == "plugin" for row in result.report.linears)
    assert "with the weights of the pruned model" in capsys.readouterr().err


def test_bfloat16_is_the_graphs_own(model, masks, tmp_path):
    graph = saved(Exporter(weights_of(model), "bfloat16").model(HIDDEN, 2), tmp_path / "exported.onnx")
    compiled(model, masks, graph, tmp_path / "out")
    kinds = {i.data_type for i in onnx.load(made_in(tmp_path)).graph.initializer if i.name.endswith(".dense")}
    assert kinds == {onnx.TensorProto.BFLOAT16}
    for settings in ({"dtype": "float16"}, {"opset": 20}, {"logits": "all"}):
        with refused():
            compiled(model, masks, graph, tmp_path / "other", **settings)


def twice(proto):
    """Another product reads the initializer of the first o_proj."""
    node = next(node for node in proto.graph.node if node.output[0] == "l0_o")
    proto.graph.node.append(
        onnx.helper.make_node("MatMul", ["l0_part0", node.input[1]], ["again"], name="again")
    )
    return "0.self_attn.o_proj"


def stored_twice(proto):
    """Another product has a copy of that initializer."""
    node = next(node for node in proto.graph.node if node.output[0] == "l0_o")
    held = next(one for one in proto.graph.initializer if one.name == node.input[1])
    proto.graph.initializer.add().CopyFrom(held)
    proto.graph.initializer[-1].name = "copy"
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["l0_part0", "copy"], ["again"], name="again"))
    return "0.self_attn.o_proj"


def gathered(proto):
    """It is an embedding too."""
    node = next(node for node in proto.graph.node if node.output[0] == "l0_o")
    proto.graph.node.insert(
        0, onnx.helper.make_node("Gather", [node.input[1], "l0_0_axis"], ["row"], name="row")
    )
    return "0.self_attn.o_proj"


def folded(proto):
    """The exporter has multiplied a scale into it."""
    node = next(node for node in proto.graph.node if node.output[0] == "l1_down")
    held = next(one for one in proto.graph.initializer if one.name == node.input[1])
    held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held) * np.float16(2), held.name))
    return "1.mlp.down_proj"


@pytest.mark.parametrize(
    ("change", "kind", "words", "is_masked"),
    [
        (twice, ReasonKind.READ_TWICE, "more than one GEMM", True),
        (stored_twice, ReasonKind.READ_TWICE, "more than one GEMM", True),
        (gathered, ReasonKind.READ_OTHERWISE, "also reads as something else", False),
        (folded, ReasonKind.NOT_IN_GRAPH, "in no GEMM of the graph", False),
    ],
)
def test_shared_linears_are_named(model, masks, tmp_path, capsys, change, kind, words, is_masked):
    proto = Exporter(weights_of(model)).model(HIDDEN, 2)
    name = f"model.layers.{change(proto)}"
    reads = {node.output[0]: node.input[1] for node in proto.graph.node if node.op_type == "MatMul"}
    graph = saved(proto, tmp_path / "exported.onnx")
    result = compiled(model, masks, graph, tmp_path / "out")
    rows = {row.name: row for row in result.report.linears}
    assert rows[name].lowering == "dense" and rows[name].reason.kind is kind
    assert all(row.lowering == "plugin" for row in rows.values() if row.name != name)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(lines) == 1 and words in lines[0] and lines[0].endswith(f": {name}")
    held = reads["l0_o" if "o_proj" in name else "l1_down"]
    before, after = arrays(graph)[held], arrays(made_in(tmp_path))[held]
    keep = MaskSet.load(masks)[name].keep().T
    np.testing.assert_array_equal(after, np.where(keep, before, 0) if is_masked else before)


@pytest.mark.parametrize("names", [True, False])
def test_equal_weights_are_told_apart_by_names_alone(model, tmp_path, names):
    file = model / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"] = weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    masks, weights = masks_of(model, tmp_path / "masks.safetensors"), weights_of(model)
    graph = saved(Exporter(weights, names=names).model(HIDDEN, 2), tmp_path / "exported.onnx")
    result = compiled(model, masks, graph, tmp_path / "out")
    alike = {row.name: row.reason for row in result.report.linears if row.name.endswith("down_proj")}
    if not names:
        assert [reason.kind for reason in alike.values()] == [ReasonKind.ALIKE, ReasonKind.ALIKE]
        return
    assert [*alike.values()] == [None, None]
    reference = saved(Exporter(masked(weights, masks)).model(HIDDEN, 2), tmp_path / "reference.onnx")
    x = np.random.default_rng(1).standard_normal((3, HIDDEN)).astype(np.float16)
    expected = run(reference, {"x": x})
    assert np.abs(run(made_in(tmp_path), {"x": x}) - expected).max() < 0.01 * np.abs(expected).max()


def of_another_checkpoint(weights, proto):
    return Exporter({name: w * 1.5 for name, w in weights.items()}).model(HIDDEN, 2)


def of_another_model(weights, proto):
    return Exporter({name: np.tile(w, (2,) * w.ndim) for name, w in weights.items()}).model(2 * HIDDEN, 2)


def quantized(weights, proto):
    node = next(node for node in proto.graph.node if node.output[0] == "l0_o")
    held = next(one for one in proto.graph.initializer if one.name == node.input[1])
    shape = [*held.dims]
    held.CopyFrom(numpy_helper.from_array(np.ones(shape, np.int8), held.name))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float16), "scale"))
    proto.graph.node.insert(
        0, onnx.helper.make_node("DequantizeLinear", [held.name, "scale"], ["real"], name="dequantize")
    )
    node.input[1] = "real"
    return proto


@pytest.mark.parametrize(
    "change",
    [
        of_another_checkpoint,
        of_another_model,
        quantized,
    ],
)
def test_graphs_that_are_refused(model, masks, tmp_path, change):
    weights = weights_of(model)
    graph = saved(change(weights, Exporter(weights).model(HIDDEN, 2)), tmp_path / "exported.onnx")
    with refused():
        compiled(model, masks, graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_data_are_named(model, masks, tmp_path):
    graph = saved(Exporter(weights_of(model)).model(HIDDEN, 2), tmp_path / "exported.onnx")
    (tmp_path / "exported.onnx.data").unlink()
    with refused():
        compiled(model, masks, graph, tmp_path / "out")


def made_in(tmp_path):
    return tmp_path / "out" / "onnx" / "model.onnx"


def arrays(path):
    return arrays_of(onnx.load(path))


def arrays_of(proto):
    return {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
