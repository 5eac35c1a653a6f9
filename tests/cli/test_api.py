"""The library does what the commands do: build → generator → verify on a tiny model, and the same bytes."""

import io
import json
import sys
from collections.abc import Sequence
from inspect import signature as inspect_signature
from typing import Annotated, Any

import pytest
from rich.console import Console
from transformers import BertConfig, BertModel

import patch_compile
from masklearn.base.option import Option
from patch_compile.api.commands import build, compare, inspect, learn, plan, run, verify
from patch_compile.api.results import Result
from patch_compile.api.signature import takes
from patch_compile.artifacts.layout import MASKS, ONNX, RECIPE
from tests.commands import flags_of, run_here
from tests.refusals import refused


def without_times(report: dict[str, Any], out: str) -> dict[str, Any]:
    text = json.dumps({name: part for name, part in report.items() if name != "seconds"}).replace(out, "OUT")
    return dict(json.loads(text))


def test_build_generate_verify(settings, tmp_path, monkeypatch):
    model, asked = settings.pop("model"), settings | {"seed": 3}
    built = build(model, **asked)
    assert built.path == tmp_path / "out"
    theirs = tmp_path / "theirs"
    done = run_here("build", model, *flags_of(asked | {"out": theirs}), "--json")
    assert done.returncode == 0, done.stderr
    assert without_times(built.report.as_json(), str(built.path)) == without_times(
        json.loads(done.stdout), str(theirs)
    )
    for name in (MASKS, ONNX, RECIPE):
        assert (built.path / name).read_bytes() == (theirs / name).read_bytes(), name

    assert built.masks.ratio == built.report.ratio
    assert built.perplexity == built.report.perplexity.pruned

    (said,) = built.generator().generate(["the cat"], new_tokens=5)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat\n")))
    for prompt in ("the cat", "-"):
        shown = run_here("run", theirs, prompt, "--new-tokens", 5)
        assert shown.returncode == 0 and shown.stdout.strip() == said.text.strip() != ""
    assert run(built.path, "the cat", new_tokens=5).texts == (said.text,)

    asked = {"only": "compiled,pruned", "lengths": (5,)}
    verified = verify(built.path, **asked)
    done = run_here("verify", theirs, "--only", "compiled,pruned", "--lengths", "5", "--json")
    assert verified.passed and done.returncode == 0
    found = json.loads(done.stdout)
    for answer in ("compiled", "pruned"):
        assert (
            verified.report.as_json()[answer]["passed" if answer == "compiled" else "kl"]
            == found[answer]["passed" if answer == "compiled" else "kl"]
        )


def test_a_recipe_fills_what_is_not_given(settings, tmp_path):
    first = build(settings.pop("model"), **settings)
    again = build(recipe=first.path / RECIPE, out=tmp_path / "again", windows=1)
    said = (again.path / RECIPE).read_text()
    assert "\nwindows: 1\n" in said and "eval_windows: 2\n" in said and "method: wanda\n" in said
    # A default that is written in the call is given too.
    third = build(recipe=first.path / RECIPE, out=tmp_path / "third", eval_windows=8)
    assert "eval_windows: 8\n" in (third.path / RECIPE).read_text()
    # An amount of pruning replaces the recipe's.
    masked = build(recipe=first.path / RECIPE, out=tmp_path / "masked", mask=first.path / MASKS)
    assert "ratio:" not in (masked.path / RECIPE).read_text()


def test_learn_plan_inspect_and_compare(settings, tmp_path):
    model = settings["model"]
    taken = ("ratio", "method", "tile", "calib", "windows", "length")
    learned = learn(model, tmp_path / "learned", **{name: settings[name] for name in taken})
    assert learned is not None and (tmp_path / "learned" / MASKS).is_file()
    planned = plan(model, ratio=0.4, tile="64x64", target="a6000", lowering="plugin")
    assert planned.report.ratio == pytest.approx(0.4, abs=0.05)
    built = build(model, tmp_path / "built", mask=tmp_path / "learned" / MASKS, backend="onnx", **{
        name: settings[name] for name in ("eval_text", "eval_windows", "eval_length")
    })  # fmt: skip
    assert not inspect(built.path).report.faults
    with refused():
        compare([built.path])
    texts = run(built.path, ["the cat", "a dog"], new_tokens=2).report
    assert [len(one.tokens) for one in texts.completions] == [2, 2]
    with refused():  # nothing is drawn
        run(built.path, ["the cat"], top_k=3)
    assert run(built.path, ["the cat"], new_tokens=1, top_k=3, temperature=0.0)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: build("m", ratio=0.9), id="ratio = 0.9 is not valid"),
        pytest.param(lambda: build("m", ratio=0.4, tile=(128, 3)), id="tile ="),
        pytest.param(
            lambda: plan(BertModel(BertConfig(num_hidden_layers=0)), ratio=0.4), id="a model in memory"
        ),
        pytest.param(lambda: run("m", ["a"], runner="prayer"), id="runner = prayer"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(call):
    with refused():
        call()


def test_signatures_hide_no_dependent_default():
    """A default that depends on the model, the method or the machine is None, and words say what it is."""
    for name in patch_compile.__all__:
        function = getattr(patch_compile, name)
        parameters = inspect_signature(function).parameters if hasattr(function, "options") else {}
        depending = {one for one, option in getattr(function, "options", {}).items() if option.unset}
        assert {parameters[one].default for one in depending} <= {None}, name
    shown = inspect_signature(build).parameters
    assert [shown[one].default for one in ("method", "kinds", "permute", "dtype")] == [None] * 4


def test_a_text_counts_as_a_list_of_one():
    @takes()
    def function(prompts: Sequence[str], *, names: Annotated[str | Sequence[str], Option("")] = ()):
        return prompts, names

    assert function("a b", names="c,d") == (("a b",), "c,d")
    assert function(["a", "b"]) == (["a", "b"], ())
    with refused():
        compare("nowhere")


def test_a_wrong_argument_names_the_nearest():
    with pytest.raises(TypeError, match=r"^build\(\) has no argument 'ratoi'\. Did you mean 'ratio'\?$"):
        build("m", ratoi=0.4)
    with pytest.raises(TypeError, match=r"^plan\(\) has no argument 'xyzzy'$"):
        plan("m", xyzzy=1)


def test_results_show_in_terminal_and_notebook(make_model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # whatever pytest was started with
    planned = plan(make_model(), ratio=0.4, target="a6000")
    shown = run_here("plan", planned.report.model, "--ratio", 0.4, "--target", "a6000").stdout
    Console(width=120, highlight=True).print(planned)  # as a terminal with rich does
    said = capsys.readouterr().out
    assert said.split() == shown.split() != []
    page = planned._repr_html_()
    assert page.startswith("<pre") and "planned, ms" in page and "speed-up" in page
    about = f"{planned.report.model}, ratio {planned.ratio:.3f}, {planned.speedup:.2f}× as fast on {planned.report.card}"
    assert repr(planned) == f"<Planned: {about}>"
    assert json.loads(planned.json()) == planned.report.as_json()


def test_brackets_and_angles_are_text(capsys):
    result = Result({"findings": [], "can": ["build [red]for <sm86>"], "cannot": []})
    Console(width=80).print(result)
    assert "can build [red]for <sm86>" in capsys.readouterr().out
    assert "can build [red]for &lt;sm86&gt;" in result._repr_html_()
