"""No command runs Python code that comes with a model, and no call in the sources could."""

import ast
import re
import shutil
from collections.abc import Iterator
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

ROOT = Path(__file__).parents[1]
PACKAGES = ("patch_compile", "masklearn")
FOLDERS = (*PACKAGES, "samples", "benchmarks")
LOADERS = {"from_pretrained", "from_config"}
# Other calls of transformers and torch that run code that comes with a model.
BANNED = {"get_class_from_dynamic_module", "get_cached_module_file", "load_custom_generate"}


def forbids(word: ast.keyword) -> bool:
    """True for `trust_remote_code=False`."""
    value = word.value
    return word.arg == "trust_remote_code" and isinstance(value, ast.Constant) and value.value is False


def faults(source: str) -> Iterator[str]:
    """Lines of Python that could run a model's own code: loads that do not forbid it, and detours around the check."""
    tree = ast.parse(source)
    forbidding = {
        id(call.func)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and any(map(forbids, call.keywords))
    }
    for node in ast.walk(tree):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        loads = isinstance(node, ast.Attribute) and name in LOADERS and id(node) not in forbidding
        pipeline = isinstance(node, ast.ImportFrom) and node.module == "transformers"
        if loads or name in BANNED or (pipeline and any(alias.name == "pipeline" for alias in node.names)):
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and not forbids(node):
            yield f"{node.lineno}: {ast.unparse(node)}"


def sources() -> dict[str, str]:
    return {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
    }


def test_every_load_forbids_the_models_own_code() -> None:
    found = {file: list(faults(source)) for file, source in sources().items()}
    assert "masklearn/model/pretrained.py" in found
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_the_packages_load_in_one_place() -> None:
    loading = {
        file for file, source in sources().items() if re.search(r"\.(from_pretrained|from_config)\(", source)
    }
    # `locate` names a call in the text of an error.
    assert {file for file in loading if file.startswith(PACKAGES)} == {
        "masklearn/model/pretrained.py", "patch_compile/runtime/locate.py",
    }  # fmt: skip


def test_commands_that_are_shown_forbid_it_too() -> None:
    """The template of the model card shows calls too."""
    shown = [
        file for folder in ("samples", "docs", "patch_compile") for file in (ROOT / folder).rglob("*.md")
    ]
    assert ROOT / "patch_compile/report/page/templates/card.md" in shown
    calls = [call for file in (ROOT / "README.md", *shown)
             for call in re.findall(r"\.from_pretrained\([^…\n]*", file.read_text(encoding="utf-8"))]  # fmt: skip
    assert calls and all("trust_remote_code=False" in call for call in calls)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("AutoModel.from_pretrained(path, trust_remote_code=False)", 0),
        ("AutoModel.from_pretrained(path)", 1),
        ("AutoModel.from_pretrained(path, trust_remote_code=trusted)", 2),
        ("AutoModel.from_pretrained(path, **settings)", 1),
        ("auto_class(row).from_config(config)", 1),
        ("dict(trust_remote_code=True)", 1),
        ("from transformers import pipeline", 1),
        ("get_class_from_dynamic_module('own.Own', path)", 1),
    ],
)
def test_the_check_itself(source: str, count: int) -> None:
    assert len(list(faults(source))) == count


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
