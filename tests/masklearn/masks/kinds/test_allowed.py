"""The value of `--kinds`, and what it allows each linear."""

import pytest

from masklearn.base.errors import MaskLearnError, UsageError
from masklearn.masks.kinds.allowed import (
    AUTO_KINDS,
    allowed_kinds,
    left_out_of_auto,
    only_two_four,
    parse_kinds,
)
from masklearn.recipe import LearnRecipe

SHAPES = {"layers.0.mlp.up": (96, 64), "layers.0.mlp.down": (64, 192), "layers.0.q": (64, 48)}


def allowed(text: str, tile: tuple[int, int] = (64, 64)) -> dict[str, str]:
    return {
        name.rpartition(".")[2]: " ".join(map(str, kinds))
        for name, kinds in allowed_kinds(text, SHAPES, tile).items()
    }


def test_the_default_is_2_4_everywhere() -> None:
    assert allowed(LearnRecipe().kinds) == {"up": "2:4", "down": "2:4", "q": "2:4"}


def test_patterns_decide_and_what_follows_one_belongs_to_it() -> None:
    text = "mlp.*=8:16,12:16,q=2:4"
    assert allowed(text) == {"up": "8:16 12:16", "down": "8:16 12:16", "q": "2:4"}
    assert allowed("mlp.up=10:16") == {"up": "10:16", "down": "2:4", "q": "2:4"}
    assert allowed("re:.*(up|down)=8:16") == {"up": "8:16", "down": "8:16", "q": "2:4"}
    assert allowed("12:16,q=2:4") == {"up": "12:16", "down": "12:16", "q": "2:4"}


def test_auto_leaves_out_what_does_not_fit() -> None:
    every = " ".join(map(str, AUTO_KINDS))
    assert allowed("auto") == {"up": every, "down": every, "q": "2:4"}
    assert allowed("auto", (64, 32)) == {"up": "2:4", "down": "2:4", "q": "2:4"}
    assert allowed("auto", (64, 1 << 20)) == {"up": every, "down": every, "q": "2:4"}


def test_what_auto_leaves_out_is_said() -> None:
    (line,) = left_out_of_auto("auto", SHAPES, (64, 64))
    assert line.startswith(
        "kinds: auto leaves 6:16, 8:16, 10:16, 12:16, 14:16 out in 1 of 3 linears, such as layers.0.q:"
    )
    assert "in 3 of 3 linears" in next(left_out_of_auto("auto", SHAPES, (64, 32)))
    for text in ("2:4", "mlp.*=auto", "mlp.*=8:16"):
        assert not list(left_out_of_auto(text, SHAPES, (64, 64)))


def test_a_named_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MaskLearnError, match=r"layers.0.q can't have tiles of kind 8:16.*they are 48 and 48"):
        allowed("8:16")
    with pytest.raises(MaskLearnError, match=r"up can't have tiles of kind 8:16.*they are 64 and 32"):
        allowed("mlp.*=8:16", (64, 32))
    with pytest.raises(MaskLearnError, match="matches no linear"):
        allowed("attention=8:16")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9:16", "no kind '9:16'"),
        ("", "no kind ''"),
        ("dense", "no kind 'dense'"),
        ("8:16,8:16", "names a kind twice"),
        ("auto,8:16", "It stands alone"),
        ("=8:16", "no pattern in front"),
        ("mlp.*=", "no kind ''"),
        ("re:(=8:16", "not a regular expression"),
    ],
)
def test_misspelled_kinds_are_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        LearnRecipe.parse({"kinds": text})


@pytest.mark.parametrize("text", ["2:4", "auto", "8:16,12:16", "mlp.*=8:16,12:16,q=2:4", "8:16,q=2:4"])
def test_a_value_is_spelled_one_way(text: str) -> None:
    assert parse_kinds(text) == text == parse_kinds(f" {text.replace(',', ' , ').replace('=', ' = ')} ")
    assert only_two_four(text) == (text == "2:4")


@pytest.mark.parametrize("method", ["patch-joint", "patch-tile", "maskllm"])
def test_a_method_that_trains_learns_2_4_only(method: str) -> None:
    with pytest.raises(UsageError, match=f"The method {method} learns 2:4 tiles only"):
        LearnRecipe.parse({"method": method, "kinds": "auto"})
    assert LearnRecipe.parse({"method": method, "kinds": "2:4"}).kinds == "2:4"
