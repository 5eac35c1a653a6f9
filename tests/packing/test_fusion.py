import pytest

from patch_compile.packing.fusion import FUSIONS, parse_fusions, spell_fusions
from patch_compile.recipe import Recipe
from tests.refusals import refused


@pytest.mark.parametrize(
    ("text", "fusions"),
    [
        ("all", tuple(FUSIONS)),
        ("none", ()),
        ("qkv, bias", ("bias", "qkv")),
        (["residual", "gated"], ("gated", "residual")),
        ((), ()),
        (tuple(FUSIONS), tuple(FUSIONS)),
        (True, tuple(FUSIONS)),  # YAML reads `fuse: on` as True
        (False, ()),
    ],
)
def test_what_is_spelled_is_read(text, fusions):
    assert parse_fusions(text) == fusions
    assert parse_fusions(spell_fusions(fusions)) == fusions


@pytest.mark.parametrize("text", ["qkv,gelu", "", "all,qkv", "none,bias", 3, {"qkv": True}])
def test_unknown_kinds_list_the_known(text):
    with refused():
        Recipe.parse({"model": "m", "ratio": 0.3, "fuse": text})


@pytest.mark.parametrize("fuse", [None, "none", "gated,qkv", False])
def test_a_recipe_keeps_them(tmp_path, fuse):
    settings = {"model": tmp_path, "ratio": 0.3} | ({} if fuse is None else {"fuse": fuse})
    recipe = Recipe.parse(settings)
    recipe.save(tmp_path / "recipe.yaml")
    again = Recipe.parse(Recipe.load(tmp_path / "recipe.yaml"))
    assert again == recipe.model_copy(update={"threads": again.threads})
    assert recipe.fuse == {None: tuple(FUSIONS), "gated,qkv": ("gated", "qkv")}.get(fuse, ())
