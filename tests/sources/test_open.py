"""A path opens as the right kind of source, and a command refuses the kinds that it can't take."""

from collections.abc import Callable
from pathlib import Path

import pytest

from patch_compile.artifacts.report import Kind
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source, TextSource, TokenSource, Weights
from patch_compile.sources.checkpoint_weights import CheckpointWeights
from patch_compile.sources.open import needed, open_source
from tests.conftest import ModelMaker
from tests.refusals import refused


@pytest.fixture
def source_of(make_model: ModelMaker, tmp_path: Path) -> Callable[[Kind], Source]:
    """source_of(kind): a model of that kind; the ONNX file is not there, for nothing may read it."""

    def make(kind: Kind) -> Source:
        named = {Kind.DECODER: "llama", Kind.ENCODER: "bert"}
        model = make_model(named[kind]) if kind in named else tmp_path / "model.onnx"
        return open_source(Recipe.parse({"model": model, "ratio": 0.4}))

    return make


@pytest.mark.parametrize("kind", Kind)
def test_paths_tell_the_kind_of_source(source_of: Callable[[Kind], Source], kind: Kind) -> None:
    assert source_of(kind).kind is kind


NEEDED: dict[str, tuple[type[Weights], set[Kind]]] = {
    "learn": (TextSource, {Kind.ONNX}),
    "compile": (CheckpointWeights, {Kind.ONNX}),
    "plan": (TextSource, {Kind.ONNX}),
    "--calibrate": (TextSource, {Kind.ONNX}),
    "--baselines": (TokenSource, {Kind.ENCODER, Kind.ONNX}),
    "--tasks": (TokenSource, {Kind.ENCODER, Kind.ONNX}),
}


@pytest.mark.parametrize("asked", NEEDED)
def test_commands_refuse_kinds_with_a_reason(source_of: Callable[[Kind], Source], asked: str) -> None:
    needs, unfit = NEEDED[asked]
    for kind in Kind:
        source = source_of(kind)
        if kind not in unfit:
            assert needed(source, needs, asked) is source
            continue
        with refused() as caught:
            needed(source, needs, asked)
        assert caught.error.why
