import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.choice.goal import Goal, parse_ratio
from masklearn.choice.select import select
from masklearn.learning import learn
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import covered_linears
from masklearn.recipe import LearnRecipe
from tests.conftest import ModelMaker
from tests.refusals import refused

KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [f"model.layers.{i}.{kind}" for i in range(3) for kind in KINDS]
AREAS = {name: np.full((2, 2), 16 if "mlp" in name else 4) for name in NAMES}


def decisions(spelled: float | str) -> dict[str, float | None]:
    """Decisions by kind, for budgets that decide all linears of a kind alike."""
    decided = Goal.of_ratio(spelled).by_linear(NAMES)
    return {kind: (d := decided[f"model.layers.1.{kind}"]) and d[1] for kind in KINDS}


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        (0.4, [0.4, 0.4, 0.4, 0.4]),
        ("0.4", [0.4, 0.4, 0.4, 0.4]),
        ("mlp.*=0.5,*.v_proj=0", [None, 0.0, 0.5, 0.5]),
        ("v_proj=0.1, up_proj = .2", [None, 0.1, 0.2, None]),
        ("*=0.3,mlp.*=0.5,down_proj=0", [0.3, 0.3, 0.5, 0.0]),
        ("0.3, mlp.*=0.5", [0.3, 0.3, 0.5, 0.5]),
        ("layers.1.*=0.25,layers.1.mlp.up_proj=0.5", [0.25, 0.25, 0.5, 0.25]),
        (r"re:.*\.(q|v)_proj=0.5", [0.5, 0.5, None, None]),
        (r"re:.*\.\w{6,7}=0.25,mlp.*=.5", [0.25, 0.25, 0.5, 0.5]),
        ("re:(?=model).*=0.25", [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_the_last_pattern_that_fits_decides(spelled: float | str, expected: list[float | None]) -> None:
    assert list(decisions(spelled).values()) == expected


def test_patterns_match_from_a_dot_on() -> None:
    with refused():
        Goal.of_ratio("proj=0.5").by_linear(NAMES)
    with refused():
        Goal.of_ratio("mlp=0.5").by_linear(NAMES)


def test_a_pattern_hidden_by_later_patterns_is_refused() -> None:
    with refused():
        Goal.of_ratio("mlp.*=0.5,*=0.3").by_linear(NAMES)


@pytest.mark.parametrize(
    "spelled",
    [
        "",
        "  ",
        "much",
        "nan",
        "0.6",
        "-0.1",
        "mlp.*=0.7",
        "mlp.*=",
        "mlp.*=x",
        "=0.5",
        "mlp.*=0.5,",
        "mlp.*,v_proj=0.5",
        "re:(=0.5",
    ],
)
def test_misspelled_ratios_are_named(spelled: str) -> None:
    with refused(ValueError):
        parse_ratio(spelled)


@given(st.floats(0.0, 0.5))
def test_a_number_in_text_is_that_number(ratio: float) -> None:
    assert parse_ratio(repr(ratio)) == ratio == parse_ratio(ratio)


def test_what_parse_returns_parses_to_itself() -> None:
    spelled = parse_ratio(r" mlp.* =.5, re:a{1,2}=0.123456789012 ")
    assert spelled == r"mlp.*=0.5,re:a{1,2}=0.123456789012"
    assert parse_ratio(spelled) == spelled


def test_the_ratio_over_all_is_weighted_by_weights() -> None:
    assert Goal.of_ratio("mlp.*=0.5").ratio(AREAS) == pytest.approx(0.5 * 64 / 80)
    assert Goal.of_ratio(0.3, per_layer=True).ratio(AREAS) == 0.3
    with refused(ValueError):
        Goal.saving(3.0, "us").ratio(AREAS)


def test_dense_linears_are_excluded_from_the_budget() -> None:
    goal = replace(Goal.of_ratio(0.4), uncounted=frozenset({"q"}))
    areas = {name: np.full((1, 4), 10) for name in ("q", "up", "down")}
    whole = goal.shares(areas)
    assert {share.names: share.saving for share in whole} == {("q",): 0.0, ("up", "down"): 32.0}
    assert goal.asked(areas) == pytest.approx(0.4) and goal.ratio(areas) == pytest.approx(32 / 120)


def test_others_save_for_spared_linears() -> None:
    areas = {name: np.full((1, 4), 10) for name in ("q", "up", "down")}
    spared = replace(Goal.of_ratio(0.2), uncounted=frozenset({"q"})).sparing(["up"])
    assert {share.names: share.saving for share in spared.shares(areas)} == {
        ("q",): 0.0,
        ("down",): 16.0,
        ("up",): 0.0,
    }
    assert spared.dense == {"q", "up"} and spared.asked(areas) == pytest.approx(0.2)
    assert spared.evenly(dict.fromkeys(areas, 40)) == {"q": 0.0, "up": 0.0, "down": pytest.approx(0.4)}
    assert Goal.of_ratio(0.2).sparing(["up"]).asked(areas) == 0.2
    scores = {name: np.arange(4.0)[None] + (name == "up") for name in areas}
    tiles = select(scores, areas, spared)
    assert {name: int(tiles[name].sum()) for name in areas} == {"q": 0, "up": 0, "down": 3}
    assert (
        int(select(scores, areas, Goal.of_ratio(0.4).sparing(["up", "q"]))["down"].sum()) == 4
    )  # all that it has


def test_what_stays_dense_is_said() -> None:
    line = Goal.of_ratio("mlp.*=0.5").left_dense(NAMES)
    assert line.startswith(
        "no pattern of the ratio fits model.layers.*.self_attn.q_proj, model.layers.*.self_attn.v_proj"
    )
    assert Goal.of_ratio("*=0.1,mlp.*=0.5").left_dense(NAMES) == Goal.of_ratio(0.4).left_dense(NAMES) == ""


def learned(path: Path, scratch: Path, notes: list[str], **settings: Any) -> MaskSet:
    recipe = LearnRecipe(method="magnitude", tile=(8, 8), **settings)
    return learn(path, recipe, scratch, note=notes.append).masks


def ratio_of(masks: MaskSet, kind: str) -> float:
    these: list[LinearMask] = [mask for name, mask in masks.items() if kind in name]
    return sum(mask.zeroed for mask in these) / sum(mask.weights for mask in these)


def test_learned_masks_meet_each_pattern(make_model: ModelMaker, tmp_path: Path) -> None:
    notes: list[str] = []
    masks = learned(make_model(), tmp_path / "s", notes, ratio="mlp.*=0.3,v_proj=0.5,k_proj=0")
    tile = 8 * 8 / min(n * k for n, k in masks.shapes().values())
    assert abs(ratio_of(masks, ".mlp.") - 0.3) <= tile / 4
    assert (ratio_of(masks, "v_proj"), ratio_of(masks, "k_proj"), ratio_of(masks, "q_proj")) == (
        0.5,
        0.0,
        0.0,
    )
    assert masks.ratio_asked == pytest.approx(masks.ratio, abs=tile / 4)
    assert masks.record.choice.asked == "mlp.*=0.3,v_proj=0.5,k_proj=0.0"
    (line,) = notes
    assert line.startswith("no pattern of the ratio fits model.layers.*.self_attn.q_proj, ")
    assert "o_proj: left dense" in line


def test_learned_masks_meet_the_ratio_in_every_linear(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model()
    masks = learned(path, tmp_path / "s", [], ratio=0.3, per_layer=True)
    for name, mask in masks.items():
        assert abs(mask.zeroed - 0.3 * mask.weights) <= 8 * 8 / 4, name
    assert (masks.ratio_asked, masks.record.choice.per_layer) == (0.3, True)
    masks.check_covers(covered_linears(path).linears)


def test_unmatched_patterns_are_refused_before_work(make_model: ModelMaker, tmp_path: Path) -> None:
    recipe = LearnRecipe(ratio="mlpp.*=0.3", calib=str(tmp_path / "no such text"))
    with refused():
        learn(make_model(), recipe, tmp_path / "s")


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_an_impossible_saving_is_refused(amount: float) -> None:
    with refused():
        Goal.saving(amount, "us")
