"""The points that are timed by default, and requests that are refused."""

import pytest
from pydantic import ValidationError

from patch_compile.artifacts.bench import Contender, Phase
from patch_compile.onnx_io.graph_inputs import GraphInput
from patch_compile.sources.base import Sequences
from patch_compile.timing.points import Point, feed_of
from patch_compile.timing.request import BenchRequest
from tests.refusals import refused


def test_sizes_that_nobody_gave_stay_within_the_positions():
    points = BenchRequest().points(Sequences(99, 512, decodes=True))
    tokens = {phase: {p.tokens for p in points if p.phase is phase} for phase in Phase}
    assert tokens[Phase.PREFILL] == {128, 512} and tokens[Phase.DECODE] == {128, 511}
    assert {p.batch for p in points} == {1, 4, 8, 16}


def test_decode_follows_the_asked_prompts():
    points = BenchRequest(prompt_tokens=(16, 64)).points(Sequences(99, 64, decodes=True))
    tokens = {phase: [p.tokens for p in points if p.phase is phase and p.batch == 1] for phase in Phase}
    assert tokens[Phase.PREFILL] == [16, 64]
    assert tokens[Phase.DECODE] == [16, 63]  # a step needs a position of its own


def test_an_encoder_has_prompts_alone():
    assert {p.phase for p in BenchRequest().points(Sequences(99, None, decodes=False))} == {Phase.PREFILL}
    with refused():
        BenchRequest(past_tokens=(8,)).points(Sequences(99, None, decodes=False))


@pytest.mark.parametrize("setting", ["iterations", "warm_up"])
def test_runs_without_end_are_refused(setting):
    with pytest.raises(ValidationError, match=rf"{setting}\n.*less than or equal to 1000000"):
        BenchRequest(**{setting: 10**9})


@pytest.mark.parametrize("asked", [
    pytest.param(BenchRequest(prompt_tokens=(65,)), id='--prompt-tokens 65 is more than the model'),
    pytest.param(BenchRequest(past_tokens=(64,)), id='--past-tokens 64 is more than the model has')
])  # fmt: skip
def test_more_tokens_than_positions_are_refused(asked):
    with refused():
        asked.points(Sequences(99, 64, decodes=True))


def test_against():
    assert BenchRequest(against="uniform-2:4, dense").models == tuple(Contender)
    assert BenchRequest(against="none").models == (Contender.HYBRID,)
    assert BenchRequest(against="dense").models == (Contender.DENSE, Contender.HYBRID)
    for wrong in ("", "sparse", "none,dense"):
        with pytest.raises(ValueError):
            BenchRequest(against=wrong)


def test_inputs_match_the_decoders_past():
    inputs = [
        GraphInput("input_ids", ("batch", "sequence")),
        GraphInput("attention_mask", ("batch", "total")),
        GraphInput("position_ids", ("batch", "sequence")),
        GraphInput("past_key_values.0.key", ("batch", 2, "past", 8)),
    ]
    step = feed_of(Point(Phase.DECODE, 3, 5), inputs, 40)
    assert {name: array.shape for name, array in step.items()} == {
        "input_ids": (3, 1), "attention_mask": (3, 6), "position_ids": (3, 1), "past_key_values.0.key": (3, 2, 5, 8)
    }  # fmt: skip
    assert (step["position_ids"] == 5).all() and step["attention_mask"].all()
    assert abs(step["past_key_values.0.key"].std() - 1) < 0.3
    prompt = feed_of(Point(Phase.PREFILL, 2, 7), inputs, 40)
    assert prompt["past_key_values.0.key"].shape == (2, 2, 0, 8)
    assert (prompt["position_ids"] == range(7)).all() and prompt["input_ids"].max() < 40
