"""Program texts of TensorRT-RTX, and the inspector's JSON as NVIDIA documents it: a real engine can only be inspected on the
GPU that built it."""

import mmap

import pytest

from patch_compile.engine.check import PlanMismatchError, check_programs
from patch_compile.engine.expectation import PlanExpectation
from patch_compile.engine.plan_program import PLUGIN, PlanLayer, PlanTensor, program_from_json, read_programs
from tests.refusals import refused

TEXT = r"""header {
  version = 5
  region = { name=devmem size=8192000 place=accelerator }
  accelerators={sm86 sm89 }
}
descriptors {
  tensor={ alignment=128 const_payload_size=65536 dims={ 4 8192 } name="q.dense_constantHalf" offset=9 type=half }
  tensor={ alignment=128 const_payload_size=0 dims={ 0 4096 } name="(Unnamed Layer* 1) [Constant]" offset=4 type=bf16 }
  tensor={ alignment=2 dims={ "a}b" 256 } mem_prop=0 name="{F[q...}]}.1" region="" strides={ "p" 1 } type=half }
}
main {
 label bb1:
  custom_layer={ name="/q/proj" output={"y" } input={"{F[q...}]}.1" "q.dense_constantHalf" } layers="[ONNX Layer: /q/proj]" }
  fully_connected={ name="a+b" output={"z" } input={"y.1" "w" } stream=0 layers="[ONNX Layer: a]%s[ONNX Layer: b]" }
}
shape_main {
  assert={ name=__mye1093_check input={"__mye369" } stream=0 msg="out of bounds; " }
}
"""


def write(path, *texts):
    path.write_bytes(b"\x7fELF\0" * 100 + b"".join(text.encode() + b"\0" * 9 + b"weights" for text in texts))
    return read_programs(path)


def test_reads_layers_tensors_and_targets(tmp_path):
    (program,) = write(tmp_path / "e", TEXT % "\x1f")
    assert program.targets == ("sm86", "sm89")
    custom, dense = program.layers
    assert (custom.kind, custom.name, custom.profile) == ("custom_layer", "/q/proj", 0)
    assert custom.inputs == ("{F[q...}]}.1", "q.dense_constantHalf")
    assert custom.onnx_nodes == ("/q/proj",)
    assert (dense.name, dense.onnx_nodes) == ("a+b", ("a", "b"))
    assert program.tensors["q.dense_constantHalf"] == PlanTensor("float16", (4, 8192), 65536)
    assert program.tensors["{F[q...}]}.1"] == PlanTensor("float16", (None, 256), None)
    assert program.tensors["(Unnamed Layer* 1) [Constant]"].nbytes == 0


def test_a_program_for_each_profile(tmp_path):
    second = TEXT.replace('name="/q/proj"', 'name="/q/proj [profile 1]"')
    programs = write(tmp_path / "e", TEXT, second)
    assert [(p.layers[0].name, p.layers[0].profile) for p in programs] == [("/q/proj", 0), ("/q/proj", 1)]


def test_late_layers_have_their_inputs_profile():
    """RTX 1.7.1 writes a 1×1 convolution that it computes as a product like this, in the second profile."""
    inputs = ("__mye433592dconst", "__mye33622o_proj/split/0/sparse [profile 1]_alpha")
    layer = PlanLayer.named(
        "fully_connected", "__mye422491", inputs, "[ONNX Layer: o_proj/split/0/sparse]__gemm_from_conv1x1"
    )
    assert (layer.name, layer.profile, layer.onnx_nodes) == ("__mye422491", 1, ("o_proj/split/0/sparse",))
    assert PlanLayer.named("fully_connected", "__mye1", inputs[:1], "").profile == 0


def test_engine_without_a_program(tmp_path):
    assert write(tmp_path / "e", "header {") == ()


def test_text_may_cross_pages_and_end(tmp_path):
    path = tmp_path / "e"
    path.write_bytes(b"\xff" * (mmap.PAGESIZE - 5) + TEXT.encode())
    assert len(read_programs(path)[0].layers) == 2


def tensor(name, dims, old, new, spelling):
    kind = (
        {"Format/Datatype": old}
        if spelling == 10
        else {"DataType": new, "Format": "Row major linear (kLINEAR)"}
    )
    return {"Name": name, "Location": "Device", "Dimensions": dims, **kind}


def information(spelling, kind="PluginV3", name="q"):
    half, whole = ("Row major linear FP16 format", "Half"), ("Row major linear INT32 format", "Int32")
    inputs = [
        tensor("x", [-1, 128], *half, spelling),
        tensor("dense", [2, 4096], *half, spelling),
        tensor("sparse", [2, 2048], *half, spelling),
        tensor("meta", [2, 128], *whole, spelling),
    ]
    layer = {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": [], "Metadata": "[ONNX Layer: q]"}
    return {"Layers": [layer], "Bindings": []}


EXPECTED = PlanExpectation({"q": 2 * 4096 * 2 + 2 * 2048 * 2 + 2 * 128 * 4}, "float16")


@pytest.mark.parametrize("spelling", [10, 11])
def test_plugin_layer_passes_the_check(spelling):
    program = program_from_json(information(spelling), ("sm86",))
    (layer,) = program.layers
    assert (layer.kind, layer.name, layer.onnx_nodes) == (PLUGIN, "q", ("q",))
    assert program.tensors["x"] == PlanTensor("float16", (None, 128), None)
    assert program.tensors["meta"] == PlanTensor("int32", (2, 128), 1024)
    check_programs((program,), EXPECTED, targets=["sm86"])
    fewer = PlanExpectation({"q": EXPECTED.patch_linears["q"] - 2}, "float16")
    with refused(PlanMismatchError):
        check_programs((program,), fewer)


def test_profiles_by_suffix():
    programs = tuple(program_from_json(information(11, name=n), ("sm86",)) for n in ("q", "q [profile 1]"))
    check_programs(programs, EXPECTED, profiles=2)
    with refused(PlanMismatchError):
        check_programs(programs[:1], EXPECTED, profiles=2)


def test_layer_that_is_no_plugin():
    program = program_from_json(information(11, kind="gemm"), ("sm86",))
    with refused(PlanMismatchError):
        check_programs((program,), EXPECTED)
