"""The command on a simulated GPU: ONNX Runtime computes engines in host memory, and a fake clock gives the times.

Real are the flow from OUT to bench.json, the runner's profiles, buffers and graphs, the prediction of each time, and
the calibration. Stand-ins replace TensorRT, CUDA and NVML.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from patch_compile.api.results import Result
from patch_compile.artifacts.bench import BenchReport, ClockSample, Contender, Library, Phase, Spread, TimedOn
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.folder import OutFolder
from patch_compile.cli.app import cli
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import Gpu
from patch_compile.planning.cards import PlanCard, card_of, card_of_gpu
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from patch_compile.sources.open import source_of
from patch_compile.timing import models, run
from patch_compile.timing.device import Place
from patch_compile.timing.engine_runner import EngineRunner
from patch_compile.timing.points import Point
from patch_compile.timing.predicted import planned_model
from patch_compile.timing.request import BenchRequest
from patch_compile.timing.timed_build import Subject
from tests.artifacts.examples import engine_report
from tests.builds import build
from tests.inputs import changed
from tests.refusals import refused
from tests.runtime.host_engine import HostDevice, HostEngine

PREFILL = {"batch": (1, 1, 4), "sequence": (1, 8, 64), "past": (0, 0, 0)}
DECODE = {"batch": (1, 1, 4), "sequence": (1, 1, 1), "past": (1, 16, 64)}
A6000 = Gpu("NVIDIA RTX A6000", (8, 6))
SMALL = BenchRequest(batch_size=(1, 4), prompt_tokens=(8, 32), past_tokens=(16, 48), iterations=3, warm_up=1)


class ToldDevice(HostDevice):
    """A device whose times come from `tell`."""

    def __init__(self, tell: Callable[[], float]) -> None:
        super().__init__()
        self.tell = tell

    def time(self, work: Callable[[], object]) -> float:
        work()
        return self.tell()


class Driver:
    """NVML with fixed figures."""

    driver, free_bytes = "580.82", 48 << 30

    def __init__(self, *clocks: int) -> None:
        self._clocks = list(clocks or (1800,))

    def sample(self) -> ClockSample:
        self._clocks.append(self._clocks.pop(0))
        return ClockSample(sm_mhz=self._clocks[0], memory_mhz=8000, watts=250.0, celsius=65)


class HostPlace(Place):
    """Opens the ONNX file that stands in for an engine; times come from `truth`, by model and point."""

    def open(self, model: str, file: Path) -> Any:
        place, point = self, {}

        class Told(EngineRunner):
            def prepare(self, make: Any, phase: Any) -> None:
                ids = make()["input_ids"].shape
                past = next(a.shape[2] for n, a in make().items() if n.startswith("past"))
                point["at"] = (str(phase), ids[0], past if ids[1] == 1 and past else ids[1])
                super().prepare(make, phase)

        device = ToldDevice(lambda: place.truth(model, *point["at"]))
        return Told(HostEngine(file, device, [PREFILL, DECODE]), device)

    truth: Any = None


def as_engine(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.load(source), target)
    return target


def with_engine(out: Path) -> None:
    as_engine(out / "onnx/model.onnx", out / "engine/model.engine")
    engine_report(backend="tensorrt", version="11.0").write(out / "engine/engine.json")
    OutFolder.open(out).record("engine", "key", ["engine/model.engine", "engine/engine.json"])


def files_of(out: Path) -> set[str]:
    return {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}


@pytest.fixture
def gpu(out_of, monkeypatch):
    """gpu(truth, driver) returns OUT of a tiny build with an engine, on a machine with an A6000."""
    out = out_of("llama")
    with_engine(out)
    monkeypatch.setattr(
        models,
        "build_contender",
        lambda _name, source, _out, _r, folder, _p: as_engine(source, folder / "model.engine"),
    )

    def on(truth: Any, driver: Any = None, card: PlanCard | None = None) -> Path:
        about = TimedOn(name=A6000.name, compute_capability="8.6", driver="580.82", backend_version="11.0")
        place = HostPlace(about, Library.TENSORRT, card or card_of_gpu(A6000), driver)
        object.__setattr__(place, "truth", truth)
        monkeypatch.setattr(run, "find_place", lambda *_, **__: place)
        return out

    return on


def constant(model: str, *_point: Any) -> float:
    return {"dense": 2.0, "hybrid": 1.6, "uniform-2:4": 1.25}[model]


@pytest.mark.quick
def test_engines_are_timed_with_clocks_limits_and_predictions(gpu, capsys):
    out = gpu(constant, Driver(1800, 1790))
    before = files_of(out)
    result = run.bench(out, SMALL)
    assert BenchReport.of(out) == result
    assert files_of(out) - before == {"bench/bench.json", "report.html"} - before
    assert {"bench/bench.json", "report.html"} <= set(OutFolder.open(out).manifest.files)
    assert "uniform-2:4: every tile" in (out / "report.html").read_text()
    assert result.runner is Library.TENSORRT
    points = [(row.phase, row.batch, row.tokens) for row in result.rows]
    assert points == [*product(["prefill"], [1, 4], [8, 32]), *product(["decode"], [1, 4], [16, 48])]
    for row in result.rows:
        assert row.speedup == pytest.approx(1.25) and row.uniform.median_ms == 1.25
        assert row.limit > 1 and row.predicted.dense_ms > 0
        assert row.limit == row.predicted.limit
    assert result.clocks.samples == 8 * 3
    assert result.clocks.during.sm_mhz == Spread(min=1790, median=1795, max=1800)
    sizes = result.bytes
    assert sizes[Contender.UNIFORM] < sizes[Contender.HYBRID] < sizes[Contender.DENSE]
    show(Result(result, Path("out")).sections())
    said = capsys.readouterr().out
    assert (
        "While it ran: SM clock 1790 … 1800 MHz, memory clock 8000 MHz, power 250 W, temperature 65 °C"
        in said
    )
    assert "predicted" in said and "limit" in said
    assert "by the GPU's clock" in said and "clock moved" not in said


def test_unasked_sizes_beyond_profiles_are_skipped(gpu):
    out = gpu(constant)
    with refused():
        run.bench(out, BenchRequest(batch_size=(5,), prompt_tokens=(8,), past_tokens=(16,)))
    # Two batches of the default sizes fit no profile.
    result = run.bench(out, BenchRequest(iterations=1, warm_up=0), force=True)
    assert {row.batch for row in result.rows} == {1, 4}
    assert any(
        "not timed: decode, batch 8, 63 past tokens: dense: its profiles" in note for note in result.notes
    )


def test_oversized_engines_are_refused(gpu):
    driver = Driver()
    driver.free_bytes = 1000
    with refused():
        run.bench(gpu(constant, driver), SMALL)


def truth_of(out: Path, assume: Any) -> Any:
    """Times of a card that differs from its data sheet."""
    folder = OutFolder.open(out)
    planned, card = (
        planned_model(folder, source_of(folder)),
        PlanCard(card_of("a6000").rated, assume=assume),
    )

    def told(model: str, phase: str, batch: int, tokens: int) -> float:
        found = planned.at(Point(Phase(phase), batch, tokens), card)
        return {"dense": found.dense_ms, "hybrid": found.planned_ms, "uniform-2:4": found.planned_ms}[model]

    return told


def test_plans_follow_calibration(gpu, no_measured_cards, capsys):
    """The time between kernels dominates in such a tiny model, and the calibration finds it."""
    out = gpu(constant)
    true = replace(ASSUMED, launch=2.5)
    gpu(truth_of(out, true), Driver(1800))
    asked = BenchRequest(**{**vars(SMALL), "calibrate": True})
    result = run.bench(out, asked)
    (file,) = no_measured_cards.iterdir()
    written = json.loads(file.read_text())
    assert written["assumptions"]["launch"] == pytest.approx(2.5, rel=0.02)
    assert written["assumptions"]["clock"] == pytest.approx(1.0)
    assert (written["gpu"], written["driver"], written["version"]) == (A6000.name, "580.82", "11.0")
    assert written["error"]["after"] < 0.01 < written["error"]["before"]
    assert result.calibration.path == str(file)
    assert BenchReport.of(out).calibration == result.calibration
    assert card_of("a6000").assume.launch == pytest.approx(2.5, rel=0.02)
    show(Result(result, Path("out")).sections())
    said = capsys.readouterr().out
    assert "predictions of a roofline" in said


def test_nonsense_calibrations_save_no_card(gpu, no_measured_cards):
    out = gpu(lambda *_: 500.0, Driver())
    with refused():
        run.bench(out, BenchRequest(**{**vars(SMALL), "calibrate": True}))
    assert not no_measured_cards.exists()
    assert BenchReport.of(out).rows


def test_unknown_gpus_are_not_calibrated(gpu, monkeypatch):
    out = gpu(constant)
    about = TimedOn(name="NVIDIA GeForce RTX 5090", backend_version="11.0")
    place = HostPlace(about, Library.TENSORRT, None, None)
    object.__setattr__(place, "truth", constant)
    monkeypatch.setattr(run, "find_place", lambda *_, **__: place)
    with refused():
        run.bench(out, BenchRequest(calibrate=True))
    result = run.bench(out, SMALL)
    assert result.rows[0].limit is None and result.clocks is None


def test_places_can_be_sent_to_processes(tmp_path):
    """The model's own process unpickles the loader and returns its error, as for this empty file."""
    (tmp_path / "model").write_bytes(b"")
    without_gpu = "--backend tensorrt can't be used here"
    with pytest.raises(PatchCompileError, match=f"{without_gpu}|{tmp_path}/model"):  # depends on the machine
        Place(TimedOn(name="x", backend_version="1"), Library.TENSORRT).open("dense", tmp_path / "model")


def test_changing_sources_make_no_engine(gpu, monkeypatch):
    out, write = gpu(constant), models.write_contender
    before = files_of(out)

    def change_and_write(*arguments):
        with changed(Recipe.of_build(out).model / "model.safetensors"):
            return write(*arguments)

    monkeypatch.setattr(models, "write_contender", change_and_write)
    with refused():
        run.bench(out, SMALL)
    assert files_of(out) == before


def test_reference_models_are_what_they_claim(out_of, tmp_path):
    """The dense file has the checkpoint's weights; the uniform file has only PatchLinears without dense slabs."""
    out = OutFolder.open(out_of("llama"))
    source, checkpoint = source_of(out), Checkpoint.open(Recipe.of_build(out.path).model)
    others = [which for which in Contender if which is not Contender.HYBRID]
    files = {w: models.write_contender(w, out, source, None, tmp_path, Progress()) for w in others}
    files[Contender.HYBRID] = out.path / "onnx/model.onnx"
    graphs = {which: onnx.load(file).graph for which, file in files.items()}
    stored = {tensor.name: tensor for tensor in graphs[Contender.DENSE].initializer}
    name = "model.layers.1.mlp.down_proj.weight"
    weight = onnx.numpy_helper.to_array(stored[name])
    assert np.array_equal(weight, checkpoint.read(name).astype(np.float16))
    assert not any(node.op_type == "PatchLinear" for node in graphs[Contender.DENSE].node)
    uniform = graphs[Contender.UNIFORM]
    packed = {t.name: t for t in uniform.initializer}
    nodes = [node for node in uniform.node if node.op_type == "PatchLinear"]
    assert sorted(n.name for n in nodes) == sorted(
        n.name for n in graphs[Contender.HYBRID].node if n.op_type == "PatchLinear"
    )
    assert all(packed[node.input[1]].dims[0] == 0 and packed[node.input[2]].dims[0] > 0 for node in nodes)


def test_uniform_masks_keep_the_two_largest(out_of):
    out = OutFolder.open(out_of("llama"))
    checkpoint, like = (
        Checkpoint.open(Recipe.of_build(out.path).model),
        MaskSet.load(out.path / "masks.safetensors"),
    )
    masks = models.UniformMasks(like, lambda name: read_linear(checkpoint, name).numpy())
    assert set(masks) == set(like)
    for name, mask in masks.items():
        groups = np.abs(read_linear(checkpoint, name).numpy()).reshape(-1, 4)
        keep = mask.keep().reshape(-1, 4)
        assert mask.zeroed * 2 == mask.weights
        assert (
            np.where(keep, groups, np.inf).min(axis=1) >= np.where(keep, -np.inf, groups).max(axis=1)
        ).all()


def test_encoders_have_no_decode_steps_and_onnx_files_one_run(built):
    def points(kind: str, **sizes: Any) -> list[Point]:
        out = OutFolder.open(built(kind))
        return list(Subject(out, source_of(out), BenchRequest(**sizes)).feeds())

    sizes = {"batch_size": (1,), "prompt_tokens": (8, 16)}
    assert points("bert", **sizes) == [Point(Phase.PREFILL, 1, tokens) for tokens in (8, 16)]
    assert points("onnx") == [Point(Phase.WHOLE, 2, None)]
    with refused():
        points("onnx", **sizes)


def test_hybrid_alone_needs_no_original(gpu, monkeypatch):
    out = gpu(constant)
    monkeypatch.setattr(models, "check_unchanged", None)  # is not called
    result = run.bench(out, BenchRequest(**{**vars(SMALL), "against": ()}))
    assert result.rows[0].dense is None and result.rows[0].speedup is None
    show(Result(result).sections())


def test_more_tokens_than_positions_are_refused_before_work(gpu):
    out = gpu(constant)
    with refused():
        run.bench(out, BenchRequest(prompt_tokens=(999,)))
    assert not (out / "bench").exists()


def test_a_replaced_original_is_refused(gpu, make_model):
    out = gpu(constant)
    recipe = out / "recipe.yaml"
    text = recipe.read_text()
    old = next(line for line in text.splitlines() if line.startswith("model:"))
    recipe.write_text(text.replace(old, f"model: {make_model('llama', hidden_size=64)}"))
    OutFolder.open(out, check=False).record("recipe", "changed", ["recipe.yaml"])
    with refused():
        run.bench(out, SMALL)


def test_earlier_times_are_kept(gpu):
    out = gpu(constant)
    (out / "bench").mkdir()
    (out / "bench/bench.json").write_text("{}")
    with refused():
        run.bench(out, SMALL)


@pytest.mark.parametrize("engine", [False, True])
def test_without_an_engine_or_a_gpu_nothing_is_timed(out_of, monkeypatch, engine):
    out = out_of("llama")
    monkeypatch.setattr("patch_compile.runtime.engine_fit.local_gpu", lambda: None)
    monkeypatch.setattr("patch_compile.timing.device.local_gpu", lambda: None)
    if engine:
        with_engine(out)
    with refused() as caught:
        run.bench(out, SMALL)
    assert caught.error.why == ("No GPU answers." if engine else "There is none.")


def test_the_command(gpu):
    out = gpu(constant)
    flags = ["--batch-size", "1", "--prompt-tokens", "8", "--past-tokens", "8", "--iterations", "2"]
    flags += ["--warm-up", "0", "--against", "dense", "--json"]
    done = CliRunner().invoke(cli.commands["bench"], [str(out), *flags], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows"][1]["phase"] == "decode"


@pytest.mark.rtx
def test_all_engines_share_the_profiles(settings, tmp_path):
    """TensorRT-RTX builds the engines here; running them takes a GPU."""
    build(
        settings
        | {
            "backend": "tensorrt-rtx",
            "target": "sm86",
            "method": "magnitude",
            "max_shapes": "batch=2,sequence=8,past=0",
        }
    )
    out = OutFolder.open(settings["out"])
    with models.engine_files(tuple(Contender), out, source_of(out), None, Progress()) as files:
        assert set(files) == set(Contender) and all(file.stat().st_size for file in files.values())
        about = {which: EngineReport.read(file.parent / "engine.json") for which, file in files.items()}
        assert not list(files[Contender.DENSE].parent.parent.rglob("*.onnx*"))
    assert {one.targets[0] for one in about.values()} == {"sm86"}
    assert len({one.profiles for one in about.values()}) == 1
    nodes = {which: one.patch_linears for which, one in about.items()}
    assert nodes[Contender.DENSE] == 0 < nodes[Contender.HYBRID] == nodes[Contender.UNIFORM]
    sizes = {which: one.bytes for which, one in about.items()}
    assert about[Contender.UNIFORM].packed_bytes < about[Contender.HYBRID].packed_bytes and sizes
    assert not files[Contender.DENSE].exists()
