import subprocess
import sys
from pathlib import Path

import pytest

from masklearn.methods import Method, method_of
from masklearn.recipe import LearnRecipe
from masklearn.traits import METHODS, Criterion, Requires, lacking
from tests.refusals import refused


def test_defaults_and_strings_from_the_command_line() -> None:
    assert LearnRecipe().method == "oneshot"
    assert LearnRecipe(method="magnitude", tile=[64, 32]).tile == (64, 32)
    assert LearnRecipe(ratio="0.3").ratio == 0.3
    assert LearnRecipe(ratio=" mlp.*=.5 , v_proj=0").ratio == "mlp.*=0.5,v_proj=0.0"


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": 0.6},
        {"ratio": "mlp.*=0.6"},
        {"ratio": ""},
        {"ratio": -0.1},
        pytest.param({"ratio": float("nan")}, id="ratio = nan"),
        {"tile": (128, 6)},
        {"tile": (0, 8)},
        {"windows": 0},
        {"length": 1},
        {"seed": -1},
        {"method": "obs"},
        {"rate": 0.4},
        {"method": "wanda", "repair_steps": 3},
        {"repair": "none", "repair_minutes": 1.0},
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object]) -> None:
    with refused():
        LearnRecipe.parse(settings)


DOCS = Path(__file__).parents[2] / "docs/howto/learning.md"


def test_documentation_names_every_method() -> None:
    for name, kind in METHODS.items():
        assert issubclass(kind, Method) and kind.name == name and kind.summary
        assert f"`{name}`" in DOCS.read_text(), f"docs/howto/learning.md has no line on {name}"


@pytest.mark.parametrize(
    ("module", "kinds"), [("masklearn.traits", "METHODS"), ("masklearn.importers.base", "IMPORTERS")]
)
def test_lists_import_nothing_heavy(module: str, kinds: str) -> None:
    code = (
        f"import sys; from {module} import {kinds}\n"
        f"print(*[kind.summary for kind in {kinds}.values()], 'MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split("MODULES")[1].split()}
    assert not loaded & {"torch", "numpy", "pydantic", "transformers"}


@pytest.mark.parametrize(
    ("method", "why_not", "found"),
    [
        ("oneshot", {Requires.LOSS: "it has none"}, None),
        ("oneshot", {Requires.INPUTS: "none are given"}, (Requires.INPUTS, "none are given")),
        ("wanda", {Requires.INPUTS: "none are given"}, (Requires.INPUTS, "none are given")),
        ("maskllm", {Requires.TRAINING: "it can't"}, (Requires.TRAINING, "it can't")),
        ("magnitude", dict.fromkeys(Requires, "nothing"), None),
    ],
)
def test_what_a_model_lacks_is_named(method: str, why_not: dict[Requires, str], found: object) -> None:
    assert lacking(METHODS[method], why_not) == found


def test_an_unavailable_criterion_is_no_default() -> None:
    oneshot, settings = method_of("oneshot"), LearnRecipe()
    assert oneshot.criterion(settings, ()) is Criterion.FISHER
    assert oneshot.criterion(settings, {Requires.LOSS}) is Criterion.RELATIVE
    assert oneshot.criterion(settings, {Requires.LOSS, Requires.INPUTS}) is Criterion.MAGNITUDE
    assert oneshot.criterion(LearnRecipe(criterion="raw"), {Requires.INPUTS}) is Criterion.RAW
    assert method_of("sparsegpt").criterion(settings, ()) is Criterion.RELATIVE
    assert method_of("wanda").criterion(settings, ()) is None


def test_windows_follow_the_widest_linear() -> None:
    assert [LearnRecipe().calibration_windows(widest) for widest in (1536, 4096, 8960)] == [32, 32, 70]
    assert LearnRecipe(length=2048).calibration_windows(28672) == 56
    assert LearnRecipe(windows=8).calibration_windows(8960) == 8
