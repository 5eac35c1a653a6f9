"""The value of --weights, and what it means for each linear."""

import re

import pytest

from masklearn.errors import PatchCompileError
from masklearn.masks.weight_types import named_types, parse_weights, quantised_types
from masklearn.weights.table import BFLOAT16, INT4, INT8

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


def test_the_last_pattern_decides_and_the_first_type_is_for_the_rest() -> None:
    assert types("mlp.*=int8,up_proj=int4") == {"up_proj": "int4", "down_proj": "int8"}
    assert types("int8,up_proj=int4,q_proj=float16") == {"up_proj": "int4", "down_proj": "int8"}
    assert types("re:.*(up,q)_proj|.*up_proj=int4") == {"up_proj": "int4"}


def test_named_types_are_in_the_order_of_the_table() -> None:
    assert named_types("int4,mlp.*=bfloat16,q_proj=int8,up_proj=int4") == (BFLOAT16, INT8, INT4)
    assert named_types(None) == ()


def test_a_value_is_spelled_in_one_way() -> None:
    assert parse_weights(" int8 , mlp.* = int4 ") == "int8,mlp.*=int4"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("int3", "There is no weight type 'int3'. The types are float16, bfloat16, int8, int4."),
        ("mlp.*=auto", "not chosen by themselves. `patch-compile plan` shows them side by side"),
        ("int8,int4", "'int4' is not PATTERN=TYPE"),
        ("=int8", "has no pattern in front of the ="),
        ("", "There is no weight type ''"),
        ("mlp.*=", "There is no weight type ''"),
        ("re:(=int8", "not a regular expression"),
    ],
)
def test_another_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_weights(text)


def test_int4_needs_whole_spans() -> None:
    with pytest.raises(PatchCompileError, match=r"mlp.down_proj can't have int4 weights") as refused:
        quantised_types("int4", SHAPES)
    assert "K is 96, no multiple of 64" in str(refused.value) and "down_proj=int8" in str(refused.value)
    assert types("int4,down_proj=int8")["down_proj"] == "int8"


def test_a_pattern_that_fits_nothing_is_named() -> None:
    with pytest.raises(PatchCompileError, match=r"'gate_proj' of --weights matches no linear"):
        quantised_types("gate_proj=int8", SHAPES)
    with pytest.raises(PatchCompileError, match=r"'up_proj' of --weights decides for no linear"):
        quantised_types("up_proj=int8,mlp.*=int4", SHAPES)
