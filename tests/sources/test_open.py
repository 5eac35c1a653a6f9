"""A path opens as the right kind of source, and each kind says what it can't do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.report import Kind
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source
from patch_compile.sources.kinds import Capability
from patch_compile.sources.open import open_source
from tests.conftest import ModelMaker

LACKS = {
    Kind.DECODER: set[Capability](),
    Kind.ENCODER: {Capability.NEXT_TOKENS},
    Kind.ONNX: set(Capability),
}


@pytest.fixture
def source_of(make_model: ModelMaker, tmp_path: Path) -> Callable[[Kind], Source]:
    """source_of(kind): a model of that kind; the ONNX file is not there, for nothing may read it."""

    def make(kind: Kind) -> Source:
        named = {Kind.DECODER: "llama", Kind.ENCODER: "bert"}
        model = make_model(named[kind]) if kind in named else tmp_path / "model.onnx"
        return open_source(Recipe.parse({"model": model, "ratio": 0.4}))

    return make


@pytest.mark.parametrize("kind", Kind)
def test_a_path_tells_the_kind_and_the_kind_what_it_lacks(
    source_of: Callable[[Kind], Source], kind: Kind
) -> None:
    source = source_of(kind)
    assert source.kind is kind
    assert {ability for ability in Capability if source.why_not(ability)} == LACKS[kind]


ASKED: dict[str, tuple[Capability, Callable[[Source], Any]]] = {
    "checkpoint": (Capability.BLOCKS, lambda source: source.checkpoint),
    "layers": (Capability.BLOCKS, lambda source: source.layers),
    "evaluation": (Capability.BLOCKS, lambda source: source.evaluation(Progress())),
    "tokenizer": (Capability.NEXT_TOKENS, lambda source: source.tokenizer),
    "pruned_logits": (Capability.NEXT_TOKENS, lambda source: source.pruned_logits(source.model)),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_a_kind_lacks_is_refused_with_its_reason(source_of: Callable[[Kind], Source], name: str) -> None:
    ability, ask = ASKED[name]
    source = source_of(Kind.ONNX)
    with pytest.raises(PatchCompileError) as refused:
        ask(source)
    assert refused.value.why == source.why_not(ability)


def test_an_encoder_has_blocks_and_no_logits(source_of: Callable[[Kind], Source]) -> None:
    source = source_of(Kind.ENCODER)
    assert source.layers == 3 and source.checkpoint.path == source.model
    with pytest.raises(PatchCompileError, match="is an encoder: it reads text and predicts none"):
        source.pruned_logits(source.model)


@pytest.mark.parametrize("command", [Capability.LEARN, Capability.COMPILE, Capability.PLAN])
def test_commands_that_take_directories_alone(
    source_of: Callable[[Kind], Source], command: Capability
) -> None:
    source_of(Kind.DECODER).require(command)
    source_of(Kind.ENCODER).require(command)
    with pytest.raises(PatchCompileError, match=f"{command} takes a model directory, not .*model.onnx"):
        source_of(Kind.ONNX).require(command)
