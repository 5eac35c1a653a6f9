"""The served graph and the judged graph differ only in the positions whose logits they return."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.verification.graph_outputs import with_all_logits
from tests.builds import build
from tests.onnx_export.tiny import Exports


@pytest.mark.parametrize("variant", ["llama-tied-yarn", "gemma2", "gpt2"])
def test_last_of_all(tmp_path: Path, variant: str) -> None:
    exports = Exports(tmp_path / "models")
    (tmp_path / "models").mkdir()
    served = exports.write(tmp_path / "model.onnx", variant, logits="last")
    whole = exports.write(tmp_path / "whole.onnx", variant)
    ids = np.random.default_rng(0).integers(2, 100, (2, 9))
    with with_all_logits(served) as full:
        assert full.parent == served.parent
        decoder = OnnxDecoder(full)
        logits, cache = decoder.step(ids, decoder.empty_cache(2))
    assert not full.exists()
    other = OnnxDecoder(whole)
    expected, _ = other.step(ids, other.empty_cache(2))
    assert logits.shape == expected.shape == (2, 9, 128)
    assert np.array_equal(logits, expected)
    last, kept = OnnxDecoder(served).step(ids, decoder.empty_cache(2))
    assert last.shape == (2, 1, 128)
    assert np.abs(last[:, 0] - logits[:, -1]).max() < 2e-3 * np.abs(logits).max()
    assert all(np.array_equal(kept[name], cache[name]) for name in cache)
    with with_all_logits(whole) as same:
        assert same == whole


@pytest.mark.parametrize(("asked", "positions"), [(None, 1), ("all", "sequence")])
def test_a_build_serves_what_is_asked(settings, asked, positions) -> None:
    """The proof uses all positions in both cases, and leaves no file behind."""
    report = build(settings | ({"logits": asked} if asked else {}))
    onnx_file = settings["out"] / "onnx/model.onnx"
    graph = onnx.load(str(onnx_file), load_external_data=False).graph
    dim = next(value for value in graph.output if value.name == "logits").type.tensor_type.shape.dim[1]
    assert (dim.dim_param or dim.dim_value) == positions
    of_genai = {"genai_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in onnx_file.parent.iterdir()} == {"model.onnx", "model.onnx.data"} | of_genai
    assert (
        report["perplexity"]["pruned"] > 1
        and report["agreement"]["error"] < report["agreement"]["tolerance"]["share"]
    )
