import numpy as np
import onnx
import onnx_ir as ir
import pytest

from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
from patch_compile.onnx_io.runnable import holds_bfloat16, runnable_onnx
from patch_compile.onnx_io.session import open_session
from patch_compile.onnx_io.write import write_onnx
from tests.graphs import graph_of, outputs
from tests.onnx_io.bfloat16_graph import model_with_weight


def test_a_model_of_bfloat16_runs_as_a_copy(tmp_path):
    model, _ = model_with_weight()
    (tmp_path / "onnx").mkdir()
    path = tmp_path / "onnx" / ".model.onnx"
    write_onnx(model, path)
    copy = runnable_onnx(path, tmp_path)
    assert copy.parent == tmp_path and not copy.name.startswith(".")
    x = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    expected = outputs(EmulateBfloat16Pass()(model).model, x=x)
    for mine, theirs in zip(open_session(copy).run(None, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_model_without_bfloat16_runs_as_it_is(tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(graph_of("agraph (float16[2, 8] x) => (float16[2, 8] y) { y = Neg (x) }"), path)
    assert not holds_bfloat16(path)
    assert runnable_onnx(path, tmp_path) == path
    assert [file.name for file in tmp_path.glob("*.onnx")] == ["model.onnx"]


@pytest.mark.parametrize("where", ["input", "output", "weight", "between"])
def test_bfloat16_is_found_wherever_it_is(tmp_path, where):
    narrow = {place: "bfloat16" if place == where else "float" for place in ("input", "output")}
    model = graph_of(
        f"agraph ({narrow['input']}[2] x) => ({narrow['output']}[2] y) {{ h = Neg (x) y = Neg (h) }}"
    )
    if where == "between":
        model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.BFLOAT16)
        model.graph[0].outputs[0].shape = ir.Shape([2])
    if where == "weight":
        value = ir.Value(name="w", const_value=ir.tensor(np.zeros(2, ir.DataType.BFLOAT16.numpy()), name="w"))
        model.graph.register_initializer(value)
    onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
    assert holds_bfloat16(tmp_path / "model.onnx")
