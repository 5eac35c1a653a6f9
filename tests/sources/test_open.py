"""A path opens as the right kind of source, and each kind refuses what it can't do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.report import Kind
from patch_compile.progress import Progress
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.sources.base import Source
from patch_compile.sources.kinds import Capability
from patch_compile.sources.open import open_source
from tests.conftest import ModelMaker
from tests.refusals import refused

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
def test_paths_tell_the_kind_of_source(source_of: Callable[[Kind], Source], kind: Kind) -> None:
    source = source_of(kind)
    assert source.kind is kind
    assert {ability for ability in Capability if source.why_not(ability)} == LACKS[kind]


ASKED: dict[str, tuple[Capability, Callable[[Source], Any]]] = {
    "checkpoint": (Capability.BLOCKS, lambda source: source.checkpoint),
    "layers": (Capability.BLOCKS, lambda source: source.layers),
    "evaluation": (Capability.BLOCKS, lambda source: source.evaluation(Progress())),
    "tokenizer": (Capability.NEXT_TOKENS, lambda source: source.tokenizer),
    "reference_logits": (Capability.NEXT_TOKENS, lambda source: source.reference_logits(source.model)),
}


@pytest.mark.parametrize("name", ASKED)
def test_lacking_capabilities_name_their_reason(source_of: Callable[[Kind], Source], name: str) -> None:
    ability, ask = ASKED[name]
    source = source_of(Kind.ONNX)
    with refused() as caught:
        ask(source)
    assert caught.error.why == source.why_not(ability)


def test_an_encoder_has_blocks_and_no_logits(source_of: Callable[[Kind], Source]) -> None:
    source = source_of(Kind.ENCODER)
    assert source.layers == 3 and source.checkpoint.path == source.model
    with refused():
        source.reference_logits(source.model)


@pytest.mark.parametrize("command", [Capability.LEARN, Capability.COMPILE, Capability.PLAN])
def test_commands_that_take_directories_alone(
    source_of: Callable[[Kind], Source], command: Capability
) -> None:
    source_of(Kind.DECODER).require(command)
    source_of(Kind.ENCODER).require(command)
    with refused():
        source_of(Kind.ONNX).require(command)


def test_a_graph_of_another_program_is_only_compiled(make_model: ModelMaker, tmp_path: Path) -> None:
    settings = {"model": make_model("llama"), "graph": tmp_path / "g.onnx", "mask": tmp_path / "masks"}
    recipe = GraphRecipe.parse(settings)
    source = open_source(recipe)
    assert {ability for ability in Capability if not source.why_not(ability)} == {Capability.COMPILE}
    asked: tuple[Callable[[], Any], ...] = (
        lambda: source.learn(recipe, tmp_path, Progress(), None),
        lambda: source.take_given(tmp_path, Progress()),
        lambda: source.weight("model.layers.0.mlp.up_proj"),
        lambda: source.dense_onnx(tmp_path / "dense.onnx"),
    )
    for ask in asked:
        with refused():
            ask()
