import pytest

from patch_compile.packing.fusion import FUSIONS
from tests.passes.fusion.fusing import A_BIAS, A, check_fused, model_with, refusals

GEMM = "h = Gemm <transB = 1> (x, a_weight, a_bias)"


@pytest.mark.parametrize(
    "body",
    [
        f"{A_BIAS} y = Neg (h)",
        f"{A_BIAS.replace('(p, a_bias)', '(a_bias, p)')} y = Neg (h)",
        f"{GEMM} y = Neg (h)",
    ],
)
def test_the_bias_goes_into_the_node(body):
    check_fused(body, {"a": "bias"})
    check_fused(body, {"a": ""}, fuse=())
    check_fused(f"{A} y = Neg (h)", {"a": ""})


@pytest.mark.parametrize("body", [A_BIAS, GEMM])
def test_a_bias_outside_is_an_add_that_ends_the_epilogue(body):
    others = [fusion for fusion in FUSIONS if fusion != "bias"]
    check_fused(f"{body} y = Gelu (h)", {"a": ""}, fuse=others)
    check_fused(f"{body} y = Gelu (h)", {"a": "bias_gelu"}, fuse=FUSIONS)


def test_a_product_that_is_read_without_its_bias_keeps_it_outside(caplog):
    model = model_with(f"{A_BIAS} y = Neg (h) z = Neg (p)", ("y", "z"))
    assert "a is not fused with the bias a.bias: Neg" in refusals(caplog, model, {"a": ""})
