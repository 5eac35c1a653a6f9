"""`patch-compile compare` on real builds of tiny models, and comparisons that it refuses."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

from patch_compile.api.results import Result
from patch_compile.artifacts.bench import BenchReport, Library, Phase, TimedOn
from patch_compile.artifacts.compare import (
    DENSE,
    ComparedAxis,
    LeftOutKind,
    Measure,
    MeasuredSpeeds,
    TimedPlace,
    TimedSize,
)
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.proof import BuildPerplexity, TextWindows
from patch_compile.artifacts.record import write_json
from patch_compile.cli.app import cli
from patch_compile.comparison import Against, compare
from patch_compile.report.compare import axis_label, method_words
from patch_compile.report.terminal import show
from tests.artifacts.benched import benched
from tests.builds import TINY, build
from tests.conftest import texts_in, write_model
from tests.refusals import refused

pytestmark = pytest.mark.quick

RATIOS = (0.1, 0.3, 0.5)
SVG = "{http://www.w3.org/2000/svg}"


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
    assert result.measured == MeasuredSpeeds(place=None, sizes={}) and result.files == ()


def test_beaten_builds_name_their_victor(outs, capsys):
    """The middle build is worse than the last, which prunes more."""
    for out, value in zip(outs, (11.0, 14.0, 13.0), strict=True):
        perplexity(out, value)
    result = compare(outs)
    assert result.pareto == ("r0.1", "r0.5")
    assert [row.beaten_by for row in result.builds] == [None, "r0.5", None]
    show(Result(result).sections())
    said = capsys.readouterr().out
    assert "Pareto points, perplexity against ratio: r0.1, r0.5" in said
    assert "r0.3 is beaten by r0.5: perplexity 14.00 against 13.00, ratio 0.30 against 0.50" in said
    assert "+40%" in said


def test_a_tile_more_is_no_gain(outs):
    """Ratios are exact to one tile, so of two builds with the same displayed ratio the worse is beaten."""
    for out, value in zip(outs, (11.0, 14.0, 12.0), strict=True):
        perplexity(out, value)
    for out, reached in zip(outs[1:], (0.30004, 0.29998), strict=True):
        rewrite(out, "report.json", ratio=reached)
    assert compare(outs).pareto == ("r0.1", "r0.5")


def test_dense_models_beat_slower_worse_builds(outs, capsys):
    for out in outs:
        perplexity(out, 12.0)
    result = compare(
        outs, against=Against.SPEED
    )  # such small linears are predicted slower than dense linears
    assert result.pareto == () and {row.beaten_by for row in result.builds} == {DENSE}
    show(Result(result).sections())
    assert "none, the dense model beats them all" in capsys.readouterr().out


def timed(
    speedup: float, gpu: str = "NVIDIA RTX A6000", batch: int = 1, library: Library = Library.TENSORRT
) -> BenchReport:
    report = benched()
    sized = {"phase": Phase.DECODE, "batch": batch, "tokens": 128, "speedup": speedup}
    row = report.rows[0].model_copy(update=sized)
    rows = (row, row.model_copy(update={"batch": 16, "speedup": 9.0}))
    device = TimedOn(name=gpu, backend_version="11.0")
    return report.model_copy(update={"runner": library, "device": device, "rows": rows})


def test_speeds_measured_alike_are_the_axis(outs, capsys):
    for out, speed in zip(outs, (1.05, 1.2, 1.4), strict=True):
        rewrite(out, "bench/bench.json", **timed(speed).as_json())
    result = compare(outs, against=Against.SPEED)
    assert result.axis == ComparedAxis(against=Against.SPEED, phase=Phase.DECODE, dense=1.0)
    assert [row.at for row in result.builds] == [1.05, 1.2, 1.4]
    assert result.measured == MeasuredSpeeds(
        place=TimedPlace(device="NVIDIA RTX A6000", library=Library.TENSORRT, version="11.0"),
        sizes={Phase.DECODE: TimedSize(batch=1, tokens=128)},
    )
    assert axis_label(result) == (
        "measured speed-up, decode, batch 1, 128 tokens\nNVIDIA RTX A6000, TensorRT 11.0"
    )
    show(Result(result).sections())
    said = capsys.readouterr().out
    assert "Pareto points, perplexity against measured speed-up of decode: " in said
    assert "measured: decode at batch 1, 128 tokens on NVIDIA RTX A6000, TensorRT 11.0" in said


@pytest.mark.parametrize(("other", "said"), [
    (timed(1.3, gpu="NVIDIA H100"),
     "were measured in different places (r0.1: NVIDIA RTX A6000, TensorRT 11.0; r0.3: NVIDIA H100, TensorRT 11.0)"),
    (timed(1.3, library=Library.ONNX_RUNTIME), "of r0.3 are ONNX Runtime's on a CPU"),
])  # fmt: skip
def test_differing_places_drop_times(outs, other, said, capsys):
    rewrite(outs[0], "bench/bench.json", **timed(1.1).as_json())
    rewrite(outs[1], "bench/bench.json", **other.as_json())
    result = compare(outs)
    assert "r0.3" not in {row.name for row in result.builds if row.measured}
    show(Result(result).sections())
    assert f"measured speeds are left out: times {said}" in capsys.readouterr().out


def test_differing_cards_drop_predictions(outs, capsys):
    plan = json.loads((outs[0] / "report.json").read_text())["plan"]
    plan["card"]["name"] = "H100"
    rewrite(outs[0], "report.json", plan=plan)
    result = compare(outs)
    assert all(row.predicted is None for row in result.builds) and result.predicted_for is None
    (left_out,) = result.left_out
    assert left_out.kind is LeftOutKind.PREDICTED_DIFFERENTLY
    show(Result(result).sections())
    said = capsys.readouterr().out
    assert "predicted speeds are left out: speeds were predicted for different cards or workloads" in said
    assert "r0.1: H100" in said and "r0.3, r0.5: A6000" in said
    with refused():
        compare(outs, against=Against.SPEED)


def drawn(file: Path) -> tuple[list[ET.Element], list[str]]:
    """Marks and names of the builds in a picture."""
    picture = ET.fromstring(file.read_text("utf-8"))
    marks = [mark for mark in picture.iter(f"{SVG}path") if mark.find(f"{SVG}title") is not None]
    return marks, [text.text or "" for text in picture.iterfind(f".//{SVG}text[@class='called']")]


def test_the_curve_is_drawn_as_svg(outs, tmp_path):
    for out, value in zip(outs, (11.0, 14.0, 13.0), strict=True):
        perplexity(out, value)
    result = compare(outs, tmp_path / "curves")
    svg, table = map(Path, result.files)
    marks, names = drawn(svg)
    assert names == ["dense", "r0.1", "r0.3", "r0.5"]
    words = [mark.findtext(f"{SVG}title") for mark in marks]
    assert words[0] == "dense: perplexity 10.00, ratio 0.000" and len(words) == 4
    hollow = [word for mark, word in zip(marks, words, strict=True) if "beaten" in mark.get("class", "")]
    assert hollow == ["r0.3: perplexity 14.00, ratio 0.300, wanda, beaten by r0.5"]
    assert json.loads(table.read_text()) == result.as_json()
    first = svg.read_bytes()
    with refused():
        compare(outs, tmp_path / "curves")
    compare(outs, tmp_path / "curves", force=True)
    assert svg.read_bytes() == first  # equal builds give equal pictures
    assert {f.name for f in (tmp_path / "curves").iterdir()} == {"compare.svg", "compare.json"}


def test_a_name_with_signs_of_xml_is_drawn(outs, tmp_path):
    odd = outs[0].rename(tmp_path / "a <b> & \x01")
    compare([odd, outs[1]], tmp_path / "curve.svg")
    assert drawn(tmp_path / "curve.svg")[1] == ["dense", "a <b> & \N{REPLACEMENT CHARACTER}", "r0.3"]


def test_one_picture_alone(outs, tmp_path):
    assert compare(outs, tmp_path / "curve.svg").files == (str(tmp_path / "curve.svg"),)
    for suffix in (".pdf", ".png"):
        with refused():
            compare(outs, tmp_path / f"curve{suffix}")


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
        build(
            {
                "model": model,
                "out": out,
                "ratio": ratio,
                **texts_in(tmp_path),
                **TINY,
            }
        )
    result = compare(outs, tmp_path / "curve.svg")
    assert result.quality.measure is Measure.OUTPUT_ERROR and result.quality.dense == 0
    assert result.pareto == ("r0.1", "r0.5")
    assert [row.increase for row in result.builds] == [None, None]
    show(Result(result).sections())
    assert "bert: relative error of the outputs on" in capsys.readouterr().out


def test_the_command(root):
    outs = [str(root / f"r{ratio}") for ratio in RATIOS]
    done = CliRunner().invoke(
        cli.commands["compare"], [*outs, "--x", "bytes", "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0 and json.loads(done.stdout)["axis"]["against"] == "bytes"
    assert CliRunner().invoke(cli.commands["compare"], []).exit_code == 2


def test_other_kinds_compare_by_bytes(root, tmp_path, capsys, monkeypatch):
    """At ratio .5 all tiles are 2:4. With 8:16 and 12:16 some tiles take more bytes."""
    monkeypatch.setenv("COLUMNS", "80")
    settings(root, 0.4, out=tmp_path / "mixed", kinds="8:16,12:16")
    result = compare([root / "r0.5", tmp_path / "mixed"], against=Against.BYTES)
    uniform, mixed = result.builds
    assert uniform.kinds == {"2:4": 1.0} and uniform.bytes_per_weight == 1.125
    assert {"8:16", "12:16"} <= mixed.kinds.keys() <= {"dense", "8:16", "12:16"}
    taken = {"dense": 2.0, "8:16": 1.125, "12:16": 1.625}
    assert mixed.bytes_per_weight == pytest.approx(sum(taken[kind] * n for kind, n in mixed.kinds.items()))
    # They differ in the picture.
    assert [method_words(row) for row in result.builds] == ["wanda", "wanda, n:16"]
    assert sum(mixed.kinds.values()) == pytest.approx(1.0) and 1.125 < mixed.bytes_per_weight < 2.0
    show(Result(result).sections())
    said = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()[1:]
        for line in said.rpartition("weights by kind of tile")[2].splitlines()[2:5]
    }
    assert rows["dense"] == ["100.0%", "2.000"] and rows["r0.5"] == ["100.0%", "1.125"]
    shares = [f"{n:.1%}" for n in mixed.kinds.values()]
    assert rows["mixed"] == [*shares, f"{mixed.bytes_per_weight:.3f}"]
    assert "compares builds by their bytes" not in said
    show(Result(compare([root / "r0.5", tmp_path / "mixed"])).sections())
    assert "kinds of tiles take different bytes at one ratio; `--x bytes`" in capsys.readouterr().out


def test_2_4_builds_need_no_kinds_table(root, capsys):
    result = compare([root / "r0.1", root / "r0.5"])
    assert result.builds[1].kinds == {"2:4": 1.0}
    assert result.builds[0].kinds == {
        "dense": pytest.approx(0.8, abs=0.05),
        "2:4": pytest.approx(0.2, abs=0.05),
    }
    show(Result(result).sections())
    assert "bytes of a weight" not in capsys.readouterr().out
