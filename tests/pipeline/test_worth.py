"""What pruning buys, apart from what weight types buy, and what a plan advises where pruning buys too little."""

import math

import pytest

from masklearn.masks.maskset import MaskSet
from patch_compile.api.results import Result
from patch_compile.artifacts.prediction import PAYS
from patch_compile.artifacts.report import read_report
from patch_compile.pipeline.plan import plan
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from tests.builds import build, narrow_model
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama

NARROW = LLAMA_2_7B | {"num_hidden_layers": 2, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
                       "intermediate_size": 1536}  # fmt: skip
PREFILL = {"prompt_tokens": 512, "generated_tokens": 1}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return write_hollow_llama(
        tmp_path_factory.mktemp("models") / "wide", LLAMA_2_7B | {"num_hidden_layers": 2}
    )


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return write_hollow_llama(tmp_path_factory.mktemp("models") / "narrow", NARROW)


def planned(model, **settings):
    return plan(Recipe.parse({"model": model, "target": "a6000", **settings}))


@pytest.mark.quick
def test_at_ratio_0_tiles_never_pay(wide, capsys):
    found = planned(wide, ratio=0.0, weights="w8a8", **PREFILL)
    assert found.whole.end_to_end.speedup > 1.3 and {point.by_tiles for point in found.regime} == {1.0}
    assert found.little_gain is None  # nothing is pruned that could be left out
    show(Result(found).sections())
    assert "tiles pay: never" in capsys.readouterr().out


def test_libraries_scale_their_sums_themselves(wide):
    """Dense W8A8 is that of CUTLASS and vLLM, and fp8 a rival where the card has it."""
    ampere, ada = (
        planned(wide, ratio=0.25, weights="w8a8", target=target, **PREFILL).whole.end_to_end
        for target in ("a6000", "rtx 4090")
    )
    assert ampere.over_library == pytest.approx(ampere.library_ms / ampere.planned_ms)
    assert (
        ampere.over_library < ampere.by_tiles
    )  # the library is faster than our kernels without pruned tiles
    assert ampere.fp8_ms is None and ada.fp8_ms is not None and ada.library_ms < ada.fp8_ms < ada.dense_ms


@pytest.mark.parametrize(
    ("settings", "better"),
    [
        ({"ratio": 0.1, "weights": "w8a8"} | PREFILL, None),
        ({"ratio": 0.1, "weights": "w8a8"}, "int8"),
    ],
    ids=["no-pruning", "another-type"],
)
def test_a_better_command_is_named(narrow, settings, better, capsys):
    found = planned(narrow, **settings)
    advice = found.little_gain
    assert advice.by_tiles == found.whole.end_to_end.by_tiles < PAYS and advice.weights == better
    followed = planned(narrow, **settings | {"ratio": 0.0, "weights": better or settings["weights"]})
    assert followed.whole.end_to_end.speedup == pytest.approx(advice.unpruned, rel=0.02)
    assert followed.whole.end_to_end.speedup > found.whole.end_to_end.speedup / PAYS
    show(Result(found).sections())
    said = " ".join(capsys.readouterr().out.split())
    assert "tiles bring only 1.0" in said and "better --ratio 0" in said


def test_tiles_that_pay_are_not_advised_against(wide):
    assert planned(wide, ratio=0.4, weights="w8a8", **PREFILL).little_gain is None


def test_a_build_says_first_that_pruning_is_not_worth_it(settings, make_model):
    report = build(settings | {"model": narrow_model(make_model), "target": "a6000", "lowering": "plugin"})
    gained = report["plan"]["whole"]["end_to_end"]
    assert gained["by_tiles"] < PAYS
    (note,) = (note for note in report["notes"] if note.startswith("warning: tiles bring only"))
    assert "better the dense model" in note
    page = (settings["out"] / "report.html").read_text()
    assert "Pruning is not worth its loss" in page
    assert MaskSet.load(settings["out"] / "masks.safetensors").ratio > 0
    assert read_report(settings["out"]).plan.whole.end_to_end.by_types == 1.0


@pytest.mark.parametrize("target", ["a6000", "a100-80", "rtx 4090", "h100", None])
@pytest.mark.parametrize(
    "asked",
    [{"ratio": 0.1, "weights": "w8a8"}, {"ratio": 0.4}, {"speedup": 1.4}, {"ratio": 0.3, **PREFILL}],
    ids=str,
)
def test_an_answer_has_at_most_14_lines(wide, narrow, target, asked, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for model in (wide,) if "speedup" in asked else (wide, narrow):
        show(Result(planned(model, **{"target": target} | asked)).sections())
        lines = capsys.readouterr().out.splitlines()
        assert sum(max(1, math.ceil(len(line) / 80)) for line in lines) <= 14
