import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.planning.lowering_patterns import asked_lowerings, parse_lowering
from patch_compile.recipe import Recipe

NAMES = [f"model.layers.{i}.{kind}" for i in (0, 1) for kind in ("self_attn.v_proj", "mlp.up_proj")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ["auto"] * 4),
        ("split", ["split"] * 4),
        ("mlp.*=plugin,*.v_proj=dense", ["dense", "plugin"] * 2),
        ("mlp.*=plugin", ["auto", "plugin"] * 2),
        ("*=plugin, layers.1.*=split", ["plugin", "plugin", "split", "split"]),
        (r"re:.*\.\d{1,2}\.mlp\..*=dense,v_proj=split", ["split", "dense"] * 2),
        ("re:.*(?=up_proj).*=plugin", ["auto", "plugin"] * 2),
    ],
)
def test_the_last_pattern_that_fits_decides_and_the_rest_is_auto(text, expected):
    assert parse_lowering(text) == text
    assert list(asked_lowerings(text, NAMES).values()) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "'fast' is no lowering"),
        ("mlp.*=fast", "'fast' is no lowering. It is one of auto, plugin, split, dense."),
        ("", "'' is not PATTERN=LOWERING"),
        ("plugin,", "'plugin' is not PATTERN=LOWERING"),
        ("mlp.*=plugin,", "'' is not PATTERN=LOWERING"),
        ("plugin,dense", "is not PATTERN=LOWERING"),
        ("mlp.*=plugin,dense", "'dense' is not PATTERN=LOWERING"),
        ("=plugin", "is not PATTERN=LOWERING"),
        ("re:(=plugin", "not a regular expression"),
    ],
)
def test_what_is_misspelled_is_said(text, said):
    with pytest.raises(ValueError) as caught:
        parse_lowering(text)
    assert said in str(caught.value)
    with pytest.raises(PatchCompileError, match="The setting lowering = "):
        Recipe.parse({"model": "m", "ratio": 0.4, "lowering": text})


def test_a_pattern_that_fits_no_linear_is_refused_with_what_there_is():
    with pytest.raises(PatchCompileError, match="matches no linear") as caught:
        asked_lowerings("*=plugin,q_proj=dense", NAMES)
    assert "model.layers.*.mlp.up_proj" in caught.value.why


def test_a_pattern_that_later_ones_overrule_everywhere_is_refused():
    with pytest.raises(PatchCompileError, match="decides for no linear") as caught:
        asked_lowerings("layers.1.*=split,*=plugin", NAMES)
    assert "'layers.1.*'" in caught.value.what and "general pattern before" in caught.value.fix
