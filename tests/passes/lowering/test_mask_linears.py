import numpy as np
import onnx_ir as ir
import pytest

from patch_compile.passes.lowering.mask_linears import MaskLinearsPass
from patch_compile.planning.lowering import plan_linear
from tests.graphs import linear
from tests.mosaics import masked_by_hand, random_mask, random_weight
from tests.refusals import refused

SHAPE = (24, 16)


def masking(lowering="dense", name="a"):
    """The pass for one linear, the values of its weight, and the expected values."""
    mask, pattern = random_mask(SHAPE, (8, 8), 0.5, 0)
    weight = random_weight(SHAPE, np.float16, 0)
    plan = {name: plan_linear(name, mask).changed(lowering=lowering)}
    read = {f"{name}.weight": weight}.__getitem__
    return MaskLinearsPass(plan, {name: mask}, read, ir.DataType.FLOAT16), masked_by_hand(
        weight, mask, pattern
    )


@pytest.mark.parametrize("form", ["matmul", "gemm+bias"])
def test_the_product_stays_and_reads_the_masked_weight(form):
    model = linear(form, SHAPE, "float16")
    before = [node.op_type for node in model.graph]
    graph_pass, expected = masking()
    assert graph_pass(model).modified
    assert [node.op_type for node in model.graph] == before
    written = model.graph.initializers["a.weight"].const_value
    np.testing.assert_array_equal(written.numpy().view(np.uint16), expected.view(np.uint16))


def test_linears_of_other_lowerings_are_left_alone():
    model = linear("matmul", SHAPE, "float16")
    assert not masking("plugin")[0](model).modified
    assert model.graph.initializers["a.weight"].const_value is None


def test_a_linear_that_is_not_in_the_graph():
    with refused(ir.passes.PreconditionError):
        masking(name="c")[0](linear("matmul", SHAPE, "float16"))
