"""`patch-compile compare` on real builds of tiny models, and comparisons that it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from patch_compile.api.results import Result
from patch_compile.artifacts.command_results import Measure
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.proof import BuildPerplexity, TextWindows
from patch_compile.artifacts.record import write_json
from patch_compile.comparison import compare
from patch_compile.report.terminal import show
from tests.builds import TINY, build
from tests.conftest import texts_in, write_model
from tests.refusals import refused

pytestmark = pytest.mark.quick

RATIOS = (0.1, 0.3, 0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    write_model(root / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    for ratio in RATIOS:
        settings(root, ratio, out=root / f"r{ratio}")
    return root


def settings(root: Path, ratio: float, **changed) -> None:
    build({"model": root / "model", "ratio": ratio, **texts_in(root), **TINY} | changed)


@pytest.fixture
def outs(root, tmp_path):
    """Fresh copies of the three builds, which a test may change."""
    return [shutil.copytree(root / f"r{ratio}", tmp_path / f"r{ratio}") for ratio in RATIOS]


def rewrite(out: Path, name: str, **changed) -> None:
    """Change keys of a JSON file of OUT, and its entry in the manifest."""
    content = json.loads((out / name).read_text()) if (out / name).is_file() else {}
    write_json(out / name, content | changed)
    manifest = json.loads((out / "manifest.json").read_text())
    stage = next((s for s, made in manifest["stages"].items() if name in made["files"]), "bench")
    names = [*manifest["stages"].get(stage, {"files": {}})["files"], name]
    OutFolder.open(out, check=False).record(stage, "changed", list(dict.fromkeys(names)))


def perplexity(out: Path, value: float, dense: float = 10.0) -> None:
    on = TextWindows(name="t", windows=2, length=24, dtype="float16", runner="checkpoints")
    found = BuildPerplexity(dense=dense, pruned=value, on=on)
    rewrite(out, "report.json", perplexity=found.as_json())


def test_the_table_says_what_the_builds_say(root):
    outs = [root / f"r{ratio}" for ratio in RATIOS]
    result = compare(outs)
    reports = [json.loads((out / "report.json").read_text()) for out in outs]
    for row, report in zip(result.builds, reports, strict=True):
        assert row.ratio == report["ratio"] and row.method == "wanda"
        assert row.quality == report["perplexity"]["pruned"]
        assert row.increase == pytest.approx(row.quality / report["perplexity"]["dense"] - 1)
        assert row.bytes == report["onnx"]["bytes"]
        assert row.predicted.decode == report["plan"]["whole"]["decode"]["speedup"]
    assert [row.name for row in result.builds] == ["r0.1", "r0.3", "r0.5"]


def test_differing_cards_drop_predictions(outs, capsys):
    plan = json.loads((outs[0] / "report.json").read_text())["plan"]
    plan["card"]["name"] = "H100"
    rewrite(outs[0], "report.json", plan=plan)
    result = compare(outs)
    assert all(row.predicted is None for row in result.builds) and result.predicted_for is None
    show(Result(result).sections())
    assert "predicted speeds are left out: builds lack them, or" in capsys.readouterr().out


def test_one_build_is_nothing_to_compare(outs):
    with refused():
        compare(outs[:1])
    with refused():
        compare([outs[0], outs[0]])


def test_builds_of_different_models_are_refused(outs):
    rewrite(outs[2], "report.json", model={"path": "/models/other", "sha256": "ab" * 32})
    with refused():
        compare(outs)


def test_perplexities_on_different_text_are_refused(outs, root, tmp_path):
    settings(root, 0.3, out=tmp_path / "shorter", eval_length=16)
    with refused():
        compare([*outs, tmp_path / "shorter"])


def test_dense_results_tell_texts_apart(outs):
    for out, dense in zip(outs, (10.0, 10.01, 10.2), strict=True):
        perplexity(out, 12.0, dense)
    with refused():
        compare(outs)


def test_a_build_that_is_not_whole_is_refused(outs):
    (outs[1] / "plan.json").write_text("{}")
    with refused():
        compare(outs)


def test_encoders_compare_by_output_error(tmp_path, capsys):
    model = write_model(
        tmp_path / "bert", "bert", hidden_size=128, intermediate_size=192, num_hidden_layers=2
    )
    outs = [tmp_path / f"r{ratio}" for ratio in (0.1, 0.5)]
    for out, ratio in zip(outs, (0.1, 0.5), strict=True):
        build({"model": model, "out": out, "ratio": ratio, **texts_in(tmp_path), **TINY})
    result = compare(outs)
    assert result.quality.measure is Measure.OUTPUT_ERROR and result.quality.dense == 0
    assert [row.increase for row in result.builds] == [None, None]
    show(Result(result).sections())
    assert "bert: relative error of the outputs on" in capsys.readouterr().out
