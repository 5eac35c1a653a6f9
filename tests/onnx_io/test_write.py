import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import save_file

from masklearn.model.checkpoint import Checkpoint
from patch_compile.onnx_io.write import bind_weights, cast_weight, write_onnx
from tests.refusals import refused

F16, BF16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def weightless(*weights: tuple[str, tuple[int, ...]], dtype: ir.DataType = F16) -> ir.Model:
    values = [ir.Value(name=n, type=ir.TensorType(dtype), shape=ir.Shape(s)) for n, s in weights]
    nodes = [ir.node("Identity", [value], name=f"use{i}") for i, value in enumerate(values)]
    for i, node in enumerate(nodes):
        output = node.outputs[0]
        output.name, output.type, output.shape = f"y{i}", values[i].type, values[i].shape
    graph = ir.Graph([], [n.outputs[0] for n in nodes], nodes=nodes, opset_imports={"": 23}, name="g")
    graph.initializers.update({str(v.name): v for v in values})
    return ir.Model(graph, ir_version=10)


def checkpoint(path: Path, model_type: str = "llama", **tensors: np.ndarray) -> Checkpoint:
    (path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    save_file(tensors, path / "model.safetensors")
    return Checkpoint.open(path)


def read_back(path: Path) -> dict[str, np.ndarray]:
    return {
        t.name: onnx.numpy_helper.to_array(t, str(path.parent))
        for t in onnx.load(str(path), load_external_data=False).graph.initializer
    }


def test_weights_arrive_rounded_and_aligned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "a.weight": rng.standard_normal((32, 40)).astype(np.float32),
        "b.weight": rng.standard_normal((33, 41)).astype(ml_dtypes.bfloat16),
        "norm.weight": rng.standard_normal(8).astype(np.float16),
    }
    model = weightless(*((name, w.shape) for name, w in weights.items()))
    bind_weights(model, checkpoint(tmp_path, **weights), F16)
    path = tmp_path / "onnx" / "model.onnx"
    write_onnx(model, path)
    onnx.checker.check_model(str(path))
    for name, array in read_back(path).items():
        assert array.dtype == np.float16
        assert np.array_equal(array, weights[name].astype(np.float32).astype(np.float16))
    external = {
        t.name: {e.key: e.value for e in t.external_data}
        for t in onnx.load(str(path), load_external_data=False).graph.initializer
        if t.external_data
    }
    assert set(external) == {"a.weight", "b.weight"}  # the norm is small and stays in the graph
    assert all(int(e["offset"]) % 4096 == 0 and e["location"] == "model.onnx.data" for e in external.values())
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_bfloat16_is_written_bit_for_bit(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 40)).astype(ml_dtypes.bfloat16)
    model = weightless(("a.weight", weight.shape), dtype=BF16)
    bind_weights(model, checkpoint(tmp_path, **{"a.weight": weight}), BF16)
    write_onnx(model, tmp_path / "model.onnx")
    raw = (tmp_path / "model.onnx.data").read_bytes()
    assert raw == weight.tobytes()


def test_tensors_are_held_singly(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def make() -> ir.TensorProtocol:
        nonlocal most
        array = np.ones((64, 64), np.float16)
        alive.append(weakref.ref(array))
        most = max(most, sum(ref() is not None for ref in alive))
        return ir.Tensor(array)

    names = [f"{i}.weight" for i in range(5)]
    model = weightless(*((name, (64, 64)) for name in names))
    for value in model.graph.initializers.values():
        value.const_value = ir.LazyTensor(make, dtype=F16, shape=ir.Shape((64, 64)), name=value.name)
    write_onnx(model, tmp_path / "model.onnx")
    assert len(alive) == 5
    assert most == 1


def test_the_model_keeps_its_lazy_tensors(tmp_path: Path) -> None:
    model = weightless(("a.weight", (32, 32)))
    bind_weights(model, checkpoint(tmp_path, **{"a.weight": np.ones((32, 32), np.float16)}), F16)
    write_onnx(model, tmp_path / "1.onnx")
    write_onnx(model, tmp_path / "2.onnx")
    assert isinstance(model.graph.initializers["a.weight"].const_value, ir.LazyTensor)
    assert (
        read_back(tmp_path / "1.onnx")["a.weight"].all() and read_back(tmp_path / "2.onnx")["a.weight"].all()
    )


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    good = weightless(("a.weight", (32, 32)))
    good.graph.initializers["a.weight"].const_value = ir.tensor(np.ones((32, 32), np.float16))
    write_onnx(good, tmp_path / "model.onnx")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    bad = weightless(("a.weight", (32, 32)), ("b.weight", (32, 32)))
    bad.graph.initializers["a.weight"].const_value = ir.tensor(np.zeros((32, 32), np.float16))
    wrong = ir.LazyTensor(lambda: ir.tensor(np.ones((4, 4), np.float16)), dtype=F16, shape=ir.Shape((32, 32)))
    bad.graph.initializers["b.weight"].const_value = wrong
    with refused(ValueError):
        write_onnx(bad, tmp_path / "model.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_graph_without_data_is_not_written(tmp_path: Path) -> None:
    with refused(ValueError):
        write_onnx(weightless(("a.weight", (2, 2))), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("model_type", "stored", "asked"),
    [
        ("llama", "lm_head.weight", "model.embed_tokens.weight"),
        ("llama", "model.embed_tokens.weight", "lm_head.weight"),
        ("gpt2", "wte.weight", "lm_head.weight"),
        ("gpt_neox", "embed_out.weight", "gpt_neox.embed_in.weight"),
    ],
)
def test_a_tied_head_is_found_under_either_name(
    model_type: str, stored: str, asked: str, tmp_path: Path
) -> None:
    saved = checkpoint(tmp_path, model_type, **{stored: np.full((4, 8), 3, np.float16)})
    model = weightless((asked, (4, 8)))
    bind_weights(model, saved, F16)
    tensor = model.graph.initializers[asked].const_value
    assert tensor is not None and (tensor.numpy() == 3).all()


@pytest.mark.parametrize(("name", "shape"), [("b.weight", (2, 2)), ("a.weight", (2, 3))])
def test_a_checkpoint_that_does_not_fit_is_refused(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    saved = checkpoint(tmp_path, **{"a.weight": np.ones((2, 2), np.float16)})
    with refused():
        bind_weights(weightless((name, shape)), saved, F16)


@pytest.mark.parametrize("source", [np.float32, ml_dtypes.bfloat16])
def test_fp16_overflow_names_weight_and_remedy(source: type) -> None:
    weight = np.array([1.0, -70000.0], source)
    with refused():
        cast_weight("a.weight", weight, F16)
    assert cast_weight("a.weight", weight, BF16).dtype == ml_dtypes.bfloat16


def test_weights_that_round_below_infinity_and_infinity_pass() -> None:
    weight = np.array([65504.0, 65519.0, np.inf], np.float32)
    assert cast_weight("w", weight, F16).tolist() == [65504.0, 65504.0, np.inf]


@pytest.mark.parametrize(
    "weight", [np.array([65520.0], np.float32), np.zeros(2, np.int8)], ids=["large", "int8"]
)
def test_weights_that_do_not_round_are_refused(weight: np.ndarray) -> None:
    with refused():
        cast_weight("w", weight, F16)


@pytest.mark.parametrize("source", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("target", [F16, BF16])
def test_casts_round_to_nearest_even(source: type, target: ir.DataType) -> None:
    weight = (np.random.default_rng(3).standard_normal(4096) * 10).astype(source)
    assert np.array_equal(cast_weight("w", weight, target), weight.astype(np.float64).astype(target.numpy()))
