import pytest
from pydantic import ValidationError

from masklearn.base.errors import UsageError
from masklearn.recipe import LearnRecipe


def test_defaults_and_strings_from_the_command_line() -> None:
    assert LearnRecipe().method == "oneshot"
    assert LearnRecipe(method="magnitude", tile=[64, 32]).tile == (64, 32)
    assert LearnRecipe(ratio="0.3").ratio == 0.3
    assert LearnRecipe(ratio=" mlp.*=.5 , v_proj=0").ratio == "mlp.*=0.5,v_proj=0.0"


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LearnRecipe().ratio = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.6}, r"ratio = 0.6 is not valid. 0.6 is outside 0 … 0.5"),
        ({"ratio": "mlp.*=0.6"}, r"ratio = mlp.*=0.6 is not valid. 0.6 is outside 0 … 0.5"),
        ({"ratio": ""}, r"ratio =  is not valid. It is empty"),
        ({"ratio": -0.1}, "ratio = -0.1"),
        ({"ratio": float("nan")}, "ratio = nan"),
        ({"tile": (128, 6)}, "tile = .*multiple of 4"),
        ({"tile": (0, 8)}, "tile = 0"),
        ({"windows": 0}, "windows = 0"),
        ({"length": 1}, "length = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"method": "obs"}, "method = obs .*The methods are .*sparsegpt, wanda"),
        ({"rate": 0.4}, "no setting rate"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LearnRecipe.parse(settings)
