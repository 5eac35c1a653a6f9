"""One `prepare` for `build`, `learn` and `compile`: it checks what the stages that are asked for need, and no more."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from patch_compile.artifacts.report import Kind
from patch_compile.pipeline.learn import learn
from patch_compile.pipeline.prepare import Job, prepare
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Stage
from patch_compile.sources.open import open_source
from patch_compile.sources.plan_task import PlanTask
from tests.conftest import ModelMaker
from tests.families import write_family
from tests.mosaics import random_mask
from tests.refusals import refused


def prepared(settings: dict[str, Any], *stages: Stage) -> Job:
    chosen = {name: value for name, value in settings.items() if value is not None}
    return prepare(Recipe.parse(chosen), Progress(), stages=stages or tuple(Stage), force=False, resume=False)


@pytest.fixture
def mask(settings: dict[str, Any], tmp_path: Path) -> Path:
    linears = covered_linears(settings["model"]).linears
    masks = {name: random_mask(shape, (64, 64), 0.6, 0)[0] for name, shape in linears.items()}
    file = tmp_path / "given" / "masks.safetensors"
    file.parent.mkdir()
    MaskSet(masks, method="random", seed=0, base_model="", base_sha256="", ratio_asked=0.3).save(file)
    return file


def test_learning_needs_no_export(settings: dict[str, Any], tmp_path: Path) -> None:
    complex_numbers = settings | {
        "model": write_family(tmp_path / "model", "deepseek_v2", num_hidden_layers=2)
    }
    assert prepared(complex_numbers, Stage.MASKS).stages == {Stage.MASKS}
    with refused():
        prepared(complex_numbers)


def test_onnx_builds_have_no_engine_stage(settings: dict[str, Any]) -> None:
    job = prepared(settings)
    assert job.stages == {Stage.MASKS, Stage.ONNX, Stage.PROOF}
    assert (job.backend, job.targets, job.plugin) == ("onnx", (), None)


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_short_held_out_text_is_refused_at_once(
    settings: dict[str, Any], make_model: ModelMaker, tmp_path: Path, model_type: str
) -> None:
    (tmp_path / "short.txt").write_text("the cat sat")
    texts = {"eval_text": str(tmp_path / "short.txt"), "calib": None}
    with refused():
        prepared(settings | texts | {"model": make_model(model_type), "method": "magnitude"})


def test_learning_without_texts_needs_no_tokenizer(settings: dict[str, Any]) -> None:
    (settings["model"] / "tokenizer.json").unlink()
    without = settings | {"method": "magnitude", "repair": "none", "calib": None, "eval_text": None}
    assert prepared(without, Stage.MASKS)


def test_an_encoder_needs_text_for_its_proof_alone(settings: dict[str, Any], make_model: ModelMaker) -> None:
    silent = settings | {"model": make_model("bert"), "method": "magnitude", "calib": None, "eval_text": None}
    assert prepared(silent, Stage.MASKS).source.kind is Kind.ENCODER
    with refused():
        prepared(silent)
    with refused():  # the text that masks are learned on is not held out
        prepared(silent | {"calib": settings["calib"]})
    with refused():
        prepared(silent | {"method": "wanda"}, Stage.MASKS)
    with refused():
        learn(Recipe.parse(silent), "dense")
    assert not settings["out"].exists()


@pytest.mark.parametrize("named", ["calib", "copy"])
def test_calibration_text_is_not_held_out(settings: dict[str, Any], tmp_path: Path, named: str) -> None:
    copy = shutil.copy(settings["calib"], tmp_path / "copy.txt")
    same = settings | {"eval_text": settings["calib"] if named == "calib" else str(copy)}
    for stages in (Stage, [Stage.MASKS]):
        with refused():
            prepared(same, *stages)


def test_models_that_cannot_write_are_refused_early(settings: dict[str, Any], make_model: ModelMaker) -> None:
    no_start = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    given = settings | {"model": make_model(**no_start)}
    assert prepared(given)
    for text, stages in (("calib", [Stage.MASKS]), ("eval_text", Stage)):
        with refused():
            prepared(given | {text: None}, *stages)
    with refused():
        learn(Recipe.parse(given | {"eval_text": None}), "dense")
    assert prepared(given | {"calib": None, "method": "magnitude"}) and not settings["out"].exists()


def test_useless_patterns_are_refused_before_work(settings: dict[str, Any]) -> None:
    for change in ({"ratio": "nothing=0.3"}, {"lowering": "nothing=dense"}):
        with refused():
            prepared(settings | change)
    assert prepared(settings | {"lowering": "nothing=dense"}, Stage.MASKS)  # nothing is lowered


def test_splitting_quantised_weights_is_refused(settings: dict[str, Any]) -> None:
    split = settings | {"weights": "v_proj=int8", "lowering": "v_proj=split"}
    with refused():
        prepared(split)
    assert prepared(split | {"weights": "v_proj=float16"})


def test_unrunnable_plugins_are_refused_uncompiled(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("PATCH_COMPILE_PLUGIN_ARCHS", "89")
    for_two = settings | {"backend": "tensorrt-rtx", "target": "sm89,sm86"}
    with refused():
        prepared(for_two)
    alone = prepared(for_two | {"lowering": "split"})
    assert alone.plugin is None and len(alone.targets) == 2
    with refused():  # quantised weights are for the plugin
        prepared(for_two | {"lowering": "dense", "weights": "v_proj=int8", "ratio": 0.0})


@pytest.mark.parametrize(
    ("change", "kernels"),
    [
        ({}, {"half"}),
        ({"kinds": "v_proj=8:16", "dtype": "bfloat16"}, {"bfloat16", "all_bfloat16"}),
        ({"kinds": "auto"}, {"half", "all_half"}),
        ({"weights": "int8"}, {"int8_half"}),
        ({"weights": "v_proj=int8", "kinds": "v_proj=8:16"}, {"half", "int8_half"}),
        (
            {"weights": "auto", "kinds": "2:4", "ratio": None, "speedup": 1.1, "method": "sparsegpt"},
            {"half", "int8_half", "int4_half", "w8a8"},
        ),
    ],
)
def test_a_build_asks_for_kernels_that_may_run(
    settings: dict[str, Any], make_model: ModelMaker, change: dict[str, Any], kernels: set[str]
) -> None:
    model = make_model(hidden_size=64, intermediate_size=128)  # widths that every type and kind fits
    chosen = {
        name: value for name, value in (settings | {"model": model} | change).items() if value is not None
    }
    assert PlanTask.of(open_source(Recipe.parse(chosen))).kernels(None) == kernels


def test_given_masks_name_their_kernels(settings: dict[str, Any], mask: Path) -> None:
    given = {name: value for name, value in settings.items() if name != "ratio"} | {"mask": mask}
    for types, kernels in (({}, {"half"}), ({"weights": "int8"}, {"int8_half"})):
        task = PlanTask.of(open_source(Recipe.parse(given | types)))
        assert task.kernels(MaskSet.load(mask)) == kernels


def test_settings_of_learning_do_not_change_given_masks(settings: dict[str, Any], mask: Path) -> None:
    given = settings | {"ratio": None, "method": None, "tile": None, "repair": None, "mask": mask}
    progress = Progress()
    for change in ({}, {"tile": (16, 16), "repair_steps": 3, "seed": 5, "windows": 1}):
        recipe = Recipe.parse({name: value for name, value in (given | change).items() if value is not None})
        prepare(recipe, progress, stages=tuple(Stage), force=False, resume=False)
    idle = [line for line in progress.notes if line.startswith("given masks: ")]
    assert idle == [
        "given masks: --repair-steps, --tile do not change them: masks and weights are learned already"
    ]


def test_masks_are_needed_where_none_are_learned(settings: dict[str, Any], mask: Path) -> None:
    given = settings | {"ratio": None, "mask": mask}
    assert prepared(given, Stage.ONNX).source.given.weights == settings["model"]
    with refused():
        prepared(settings, Stage.ONNX)


def test_each_stage_asks_for_its_own_space(settings: dict[str, Any], mask: Path) -> None:
    learning = prepared(settings)
    given = prepared(settings | {"ratio": None, "mask": mask})
    for job in (learning, given):
        alone = {stage: job.source.space(job.recipe, {stage}) for stage in Stage}
        assert all(alone.values())
        assert job.source.space(job.recipe, set(Stage)) == pytest.approx(sum(alone.values()), abs=len(Stage))
    masks = {Stage.MASKS}
    assert given.source.space(given.recipe, masks) < learning.source.space(learning.recipe, masks)


def test_masks_of_another_checkpoint_are_warned_of(settings: dict[str, Any], mask: Path) -> None:
    """The linears have the names and shapes of the model, so no other check would notice."""
    masks = MaskSet.load(mask)
    base = Checkpoint.open(settings["model"]).fingerprint()
    own = mask.with_name("own.safetensors")
    MaskSet(dict(masks), method="random", seed=0, base_model="m", base_sha256=base, ratio_asked=0.3).save(own)
    said = {}
    for file in (mask, own):
        progress = Progress()
        given = settings | {"mask": file, "ratio": None}
        chosen = {name: value for name, value in given.items() if value is not None}
        prepare(Recipe.parse(chosen), progress, stages=[Stage.ONNX], force=False, resume=False)
        said[file] = [note for note in progress.notes if note.startswith("warning: the masks")]
    assert len(said[mask]) == 1 and said[own] == []
    assert str(mask) in said[mask][0] and "not made for the weights of" in said[mask][0]
