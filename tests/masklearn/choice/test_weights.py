"""The value of `weights`, and its meaning for each linear."""

import pytest

from masklearn.choice.menu import (
    allowed_types,
    leaves_choice,
    named_types,
    parse_weights,
    quantised_types,
    spell_types,
)
from masklearn.quant.table import BFLOAT16, FLOAT16, INT4, INT8, W8A8
from tests.refusals import refused

SHAPES = {
    "layers.0.mlp.up_proj": (96, 64),
    "layers.0.mlp.down_proj": (64, 96),
    "layers.0.attn.q_proj": (64, 64),
}


def types(text: str | None) -> dict[str, str]:
    return {name.rpartition(".")[2]: kind.name for name, kind in quantised_types(text, SHAPES).items()}


def test_one_type_is_for_all_linears() -> None:
    assert types("int8") == dict.fromkeys(("up_proj", "down_proj", "q_proj"), "int8")
    assert types("float16") == types(None) == {}


def test_the_last_matching_type_decides() -> None:
    assert types("mlp.*=int8,up_proj=int4") == {"up_proj": "int4", "down_proj": "int8"}
    assert types("int8,up_proj=int4,q_proj=float16") == {"up_proj": "int4", "down_proj": "int8"}
    assert types("re:.*(up,q)_proj|.*up_proj=int4") == {"up_proj": "int4"}


def test_named_types_keep_the_tables_order() -> None:
    assert named_types("int4,mlp.*=bfloat16,q_proj=int8,up_proj=int4") == (BFLOAT16, INT8, INT4)
    assert named_types(None) == ()


def test_a_value_is_spelled_in_one_way() -> None:
    assert parse_weights(" int8 , mlp.* = int4 ") == "int8,mlp.*=int4"


@pytest.mark.parametrize(
    "text",
    ["int3", "mlp.*=auto,int8", "int8,int8", "float16,int8,bfloat16", "=int8", "", "mlp.*=", "re:(=int8"],
)
def test_another_text_is_refused(text: str) -> None:
    with refused(ValueError):
        parse_weights(text)


def test_int4_needs_whole_spans() -> None:
    with refused():
        quantised_types("int4", SHAPES)
    assert types("int4,down_proj=int8")["down_proj"] == "int8"


def test_w8a8_sums_must_fit_int32() -> None:
    assert allowed_types("w8a8", {"up": (64, 131072)}) == {"up": (W8A8,)} and 131072 * 127 * 128 < 2**31
    with refused():
        allowed_types("w8a8", {"up": (64, 131136)})
    with refused(ValueError):
        W8A8.scales_shape((64, 131136))


def test_a_pattern_that_fits_nothing_is_named() -> None:
    with refused():
        quantised_types("gate_proj=int8", SHAPES)
    with refused():
        quantised_types("up_proj=int8,mlp.*=int4", SHAPES)


def test_auto_takes_what_fits_lists_are_exact() -> None:
    up, down, q = SHAPES
    assert allowed_types("auto", SHAPES) == {
        up: (FLOAT16, INT8, INT4),
        down: (FLOAT16, INT8),  # K is not a multiple of 64
        q: (FLOAT16, INT8, INT4),
    }
    mixed = allowed_types("int4,int8,down_proj=float16,int8,q_proj=int4", SHAPES)
    assert mixed == {up: (INT8, INT4), down: (FLOAT16, INT8), q: (INT4,)}
    assert allowed_types("auto", SHAPES, {up: INT4})[up] == (INT4,)  # a quantised checkpoint keeps its grids
    assert allowed_types(None, SHAPES, {up: INT4}) == {up: (INT4,), down: (FLOAT16,), q: (FLOAT16,)}
    assert parse_weights(" auto , mlp.* = int8 , int4 ") == "auto,mlp.*=int8,int4"
    assert named_types("auto") == (INT8, W8A8, INT4)
    assert leaves_choice("mlp.*=int8,int4") and leaves_choice("q_proj=auto")
    assert not leaves_choice("int8,mlp.*=int4") and not leaves_choice(None)


def test_auto_offers_w8a8_for_time_only() -> None:
    up, *_ = SHAPES
    assert allowed_types("auto", SHAPES, by_time=True)[up] == (FLOAT16, INT8, W8A8, INT4)
    assert W8A8 not in allowed_types("auto", SHAPES)[up]


def test_a_choice_that_nothing_makes_is_refused() -> None:
    with refused():
        quantised_types("auto", SHAPES)
    with refused():
        allowed_types("int8,int4", SHAPES)


def test_chosen_types_survive_spelling() -> None:
    names = ["a.b", "x.a.b", "y.a.b", "c[0].d", "e"]
    shapes = dict.fromkeys(names, (64, 64))
    for types in (
        dict(zip(names, (INT8, FLOAT16, INT4, INT8, INT4), strict=True)),
        dict.fromkeys(names, FLOAT16) | {"a.b": INT4},
        dict.fromkeys(names, INT4),
    ):
        text = spell_types(types)
        found = quantised_types(parse_weights(text), shapes)
        assert found == {name: kind for name, kind in types.items() if kind.quantised}, text
