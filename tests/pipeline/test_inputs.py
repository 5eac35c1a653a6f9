"""Every file that a build from a checkpoint reads or copies is changed: between two runs, and in mid-build."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.pipeline.learn import learn
from patch_compile.pipeline.prepare import Job, prepare
from patch_compile.pipeline.stages import _Run, keys_of
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Stage
from patch_compile.sources.checkpoint.source import CheckpointSource
from tests.builds import TINY, build
from tests.conftest import EVAL_TEXT, TEXT, write_model
from tests.inputs import assert_changes_are_named, changed, differences, files_below
from tests.refusals import refused

_BESIDE = {
    "special_tokens_map.json": json.dumps({"unk_token": "<unk>", "bos_token": "<s>"}),
    "generation_config.json": json.dumps({"do_sample": True, "temperature": 0.7}),
    "chat_template.jinja": "{{ messages }}",
    "LICENSE": "Do what you like.",
    "README.md": "---\nlicense: mit\n---\n",
    "1_Pooling/config.json": "{}",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two shards, all kinds of other files of a model, and texts."""
    folder = tmp_path_factory.mktemp("inputs")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    model = write_model(folder / "model", "llama", "120KB", **sizes)
    for name, text in _BESIDE.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(text)
    assert len([*model.glob("*.safetensors")]) == 2
    for name, text in (("calib.txt", TEXT), ("eval.txt", EVAL_TEXT)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def masks(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks that bring new weights along."""
    out = tmp_path_factory.mktemp("masks") / "out"
    learned(inputs, out, method="sparsegpt")
    return out / "masks.safetensors"


def asked(inputs: Path, out: Path, **settings: Any) -> dict[str, Any]:
    texts = {"calib": str(inputs / "calib.txt"), "eval_text": str(inputs / "eval.txt")}
    found = {"model": inputs / "model", "out": out, "ratio": 0.4, **texts, **TINY, "tile": (32, 32)}
    return {name: value for name, value in (found | settings).items() if value is not None}


def learned(
    inputs: Path, out: Path, *, force: bool = False, resume: bool = False, **settings: Any
) -> dict[str, Any]:
    answer = learn(Recipe.parse(asked(inputs, out, **settings)), force=force, resume=resume)
    assert answer is not None
    return answer.seconds


def prepared(recipe: dict[str, Any], stage: Stage) -> Job:
    return prepare(Recipe.parse(recipe), Progress(), stages=[stage], force=False, resume=False)


def stopped(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_relearning_equals_a_clean_run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, cut = tmp_path / "before", tmp_path / "cut"
    learned(inputs, before)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("patch_compile.pipeline.learn.write_manifest", stopped)
        learned(inputs, cut)

    def again(name: str) -> tuple[tuple[Path, dict[str, Any]], ...]:
        forced, resumed = tmp_path / f"{name}-forced", tmp_path / f"{name}-resumed"
        shutil.copytree(before, forced)
        shutil.copytree(cut.with_name("cut.partial"), resumed.with_name(f"{resumed.name}.partial"))
        seconds = learned(inputs, forced, force=True), learned(inputs, resumed, resume=True)
        return (forced, seconds[0]), (resumed, seconds[1])

    assert all("masks" not in seconds for _, seconds in again("unchanged"))
    for count, file in enumerate(files_below(inputs)):
        with changed(file):
            clean = tmp_path / f"{count}-clean"
            learned(inputs, clean)
            for out, _ in again(str(count)):
                assert differences(out, clean) == [], file


def test_added_and_removed_files_are_learned_from_anew(inputs: Path, tmp_path: Path) -> None:
    model, out, clean = shutil.copytree(inputs / "model", tmp_path / "model"), tmp_path / "out", iter("abcd")
    settings: dict[str, Any] = {"model": model, "method": "magnitude"}
    learned(inputs, out, **settings)
    (model / "2_Dense").mkdir()
    for name in ("NOTICE", "2_Dense/config.json"):
        (model / name).write_text("{}")
        for _ in ("added", "removed"):
            learned(inputs, out, force=True, **settings)
            other = tmp_path / next(clean)
            learned(inputs, other, **settings)
            assert differences(out, other) == [], name
            (model / name).unlink(missing_ok=True)


def test_a_change_in_mid_build_is_named(inputs: Path, tmp_path: Path) -> None:
    assert_changes_are_named(
        inputs, CheckpointSource, lambda: learned(inputs, tmp_path / "out", method="magnitude")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["NOTICE", "2_Dense/config.json"])
def test_a_file_added_in_mid_build_is_named(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = shutil.copytree(inputs / "model", tmp_path / "model")
    (model / "2_Dense").mkdir()
    real = CheckpointSource.learn

    def learn_and_add(*arguments: Any) -> Any:
        (model / name).write_text("{}")
        return real(*arguments)

    monkeypatch.setattr(CheckpointSource, "learn", learn_and_add)
    with refused():
        learned(inputs, tmp_path / "out", model=model, method="magnitude")


def test_every_file_enters_the_key_of_a_graph(inputs: Path, masks: Path, tmp_path: Path) -> None:
    """Masks that bring new weights bring the other files of their folder, too. Weights that changed are refused."""
    recipe = asked(inputs, tmp_path / "out", ratio=None, mask=masks, calib=None, eval_text=None)
    files = [*files_below(inputs / "model"), *files_below(masks.parent / "model"), masks]
    first = keys_of(prepared(recipe, Stage.ONNX))[Stage.ONNX]
    assert keys_of(prepared(recipe, Stage.ONNX))[Stage.ONNX] == first
    for file in files:
        with changed(file):
            try:
                assert keys_of(prepared(recipe, Stage.ONNX))[Stage.ONNX] != first, file
            except PatchCompileError as error:
                assert file.is_relative_to(masks.parent) and str(file.parent) in str(error), file


def test_files_are_watched_during_writing(inputs: Path, masks: Path, tmp_path: Path) -> None:
    recipe = asked(inputs, tmp_path / "out", ratio=None, mask=masks)
    for file in [*files_below(inputs), *files_below(masks.parent / "model"), masks]:
        job = prepared(recipe, Stage.ONNX)
        job.files.check()
        with changed(file), refused():
            job.files.check()


def test_the_masks_that_training_starts_from_are_watched(inputs: Path, masks: Path, tmp_path: Path) -> None:
    recipe = asked(inputs, tmp_path / "out", method="patch-tile", prior=str(masks))
    job = prepared(recipe, Stage.MASKS)
    with changed(masks), refused():
        job.files.check()


@pytest.mark.parametrize("name", ["model/tokenizer.json", "model/generation_config.json", "eval.txt"])
def test_rebuilding_equals_a_clean_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, clean = tmp_path / "out", tmp_path / "clean"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("patch_compile.pipeline.build.write_manifest", stopped)
        build(asked(inputs, out))
    with changed(inputs / name):
        build(asked(inputs, out), resume=True)
        build(asked(inputs, clean))
        assert differences(out, clean) == []
    build(asked(inputs, out), force=True)  # the file is as it was before
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "write_report", lambda *_: pytest.fail("nothing has changed"))
        build(asked(inputs, out), force=True)
    shutil.rmtree(clean)
    build(asked(inputs, clean))
    assert differences(out, clean) == []
