"""The inspector's JSON as NVIDIA documents it. A real engine can only be inspected on the GPU that built it."""

import pytest

from patch_compile.engine.check import PlanMismatchError, check_programs
from patch_compile.engine.expectation import PlanExpectation
from patch_compile.engine.plan_program import PLUGIN, PlanTensor, program_from_json
from tests.refusals import refused


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
