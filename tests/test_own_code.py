"""No command runs Python code that comes with a model."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from patch_compile.pipeline.prepare import prepare
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Stage
from tests.builds import build
from tests.commands import run_here
from tests.own_code import claim_config, claim_tokenizer, nothing_runs
from tests.refusals import refusal


def test_build_verify_run_need_no_model_code(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """build works and leaves the code out of OUT. Then tokenizers of OUT and of the source are replaced by such code."""
    model, out = settings["model"], settings["out"]
    claim_config(model)
    with nothing_runs(model, monkeypatch):
        build(settings)
        assert not (out / "model" / "own.py").exists()
        given = settings | {"mask": out / "masks.safetensors", "ratio": None, "out": tmp_path / "new"}
        prepare(Recipe.parse(given), Progress(), stages=[Stage.ONNX], force=False, resume=False)
        done = run_here("run", out, "the cat", "--new-tokens", 2)
        assert done.returncode == 0, done.stderr
        done = run_here("verify", out, "--lengths", "1,7")
        assert done.returncode == 0, done.stderr
        claim_tokenizer(model)
        caught = [run_here("verify", out, "--lengths", "1,7")]  # it loads the source's tokenizer
        for file in ("tokenizer_config.json", "own.py"):
            shutil.copyfile(model / file, out / "model" / file)
        caught.append(run_here("run", out, "the cat"))  # it loads OUT's tokenizer
    for done in caught:
        refusal(done)
