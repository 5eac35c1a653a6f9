"""Transposes before products that ONNX Runtime 1.32 crashes on at full optimization."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from patch_compile.onnx_io.own_process import run_model
from tests.sources.onnx_model import graphs
from tests.sources.onnx_model.learning import learn, write_hybrid


def hybrid_of(path, folder, **options):
    learned = learn(path, folder, ratio=0.5, method="magnitude")
    write_hybrid(learned, folder / "hybrid.onnx", **options)
    return folder / "hybrid.onnx"


def casts(path):
    return [n.name for n in onnx.load(path).graph.node if n.op_type == "Cast" and "separated" in n.name]


def conv(path, perm):
    """As in silero_vad_16k_sequence: the features are brought to the front for a convolution."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Transpose", ["r"], ["t"], "turn", perm=perm),
        helper.make_node("Conv", ["t", "w"], ["y"], "fc"),
    ]
    return graphs.save(path, nodes, [graphs.tensor("w", 8, 64, 1)], x=("a", "b", 64))


def product(path, perm, readers=1):
    rank = len(perm)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Transpose", ["r"], ["t"], "turn", perm=perm),
        *(helper.make_node("MatMul", ["t", f"w{i}"], [f"h{i}"], f"fc{i}") for i in range(readers)),
        helper.make_node("Sum", [f"h{i}" for i in range(readers)], ["y"], "sum"),
    ]
    weights = [graphs.tensor(f"w{i}", 64, 32, dtype=np.float16) for i in range(readers)]
    x = ["a", "b", "c", "d"][:rank]
    x[perm[-1]] = 64
    return graphs.save(path, nodes, weights, x=x, elem=TensorProto.FLOAT16)


def test_a_convolution_behind_a_transpose(tmp_path):
    hybrid = hybrid_of(conv(tmp_path / "m.onnx", [1, 2, 0]), tmp_path)
    assert len(casts(hybrid)) == 2
    list(run_model(hybrid, []))  # loads it


@pytest.mark.parametrize(
    ("perm", "apart"),
    [
        ((1, 0, 2), True),
        ((1, 2, 0), True),
        ((0, 2, 1), False),
        ((2, 0, 1), False),
        ((1, 2, 0, 3), True),
        ((1, 2, 3, 0), True),
        ((0, 2, 1, 3), False),
    ],
)
def test_a_product_of_16_bits_behind_a_transpose(tmp_path, perm, apart):
    hybrid = hybrid_of(product(tmp_path / "m.onnx", perm), tmp_path)
    assert len(casts(hybrid)) == (2 if apart else 0)
    list(run_model(hybrid, []))  # loads it


def test_products_share_the_casts(tmp_path):
    assert len(casts(hybrid_of(product(tmp_path / "m.onnx", (1, 0, 2), readers=2), tmp_path, fuse=()))) == 2
