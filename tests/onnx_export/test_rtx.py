"""TensorRT-RTX builds the exported graphs ahead of time, with a prefill and a decode profile, without a GPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.onnx_export.tiny import Exports

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]

Point = tuple[int, int, int]  # batch, sequence, past
PREFILL: tuple[Point, Point, Point] = ((1, 1, 0), (1, 64, 0), (4, 128, 32))
DECODE: tuple[Point, Point, Point] = ((1, 1, 1), (1, 1, 64), (4, 1, 255))


def build(path: Path) -> bytes:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    cached = any(name.startswith("past") for name in names)
    for points in (PREFILL, DECODE) if cached else (PREFILL,):
        assert config.add_optimization_profile(profile(builder, network, points)) >= 0
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return bytes(engine)


def profile(builder: Any, network: Any, points: tuple[Point, Point, Point]) -> Any:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = []
        for batch, sequence, past in points:
            if tensor.name.startswith("past"):
                shapes.append((batch, tensor.shape[1], past, tensor.shape[3]))
            else:
                total = network.num_inputs > 3 and tensor.name == "attention_mask"
                shapes.append((batch, past + sequence if total else sequence))
        made.set_shape(tensor.name, *shapes)
    return made


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("qwen2-mixed", {}),
        ("llama", {"dtype": "bfloat16", "logits": "last"}),
        ("gemma3_text", {"plain_ops": True}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("phi3", {}),
        ("gpt2", {}),
        ("opt", {}),
        ("gpt_neox", {}),
        ("bert", {}),
        ("roberta", {}),
        ("mpnet", {}),
    ],
)
def test_the_graph_builds(variant: str, options: dict[str, Any], exports: Exports, tmp_path: Path) -> None:
    assert len(build(exports.write(tmp_path / "model.onnx", variant, **options))) > 100_000
