"""A folder in which the commands of a page run as they are written, on a tiny model with few and short windows of text."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import run_here
from tests.conftest import WORDS, write_model
from tests.pages.page import ROOT

MODELS = ("MODEL_DIR", "Qwen/Qwen2.5-1.5B-Instruct", ".cache/models/smollm2-135m", "models/smollm2-135m")
TEXTS = ("TEXT", "calib.txt", "eval.txt", ".cache/texts/calib.txt", ".cache/texts/eval.txt")
# Settings of learning that make a run short. A page's own options come before them.
SMALL = {
    "METHOD": "magnitude", "TILE": "64x64", "WINDOWS": "2", "LENGTH": "24", "EVAL_WINDOWS": "2", "EVAL_LENGTH": "24",
    "REPAIR": "none", "BATCH": "2", "SEED": "0", "PRECISION": "fp32",
}  # fmt: skip
ENVIRONMENT = {
    **{f"PATCH_COMPILE_LEARN_{name}": value for name, value in SMALL.items()},
    **{f"PATCH_COMPILE_BUILD_{name}": value for name, value in SMALL.items()},
    "PATCH_COMPILE_BUILD_BACKEND": "onnx",
    "PATCH_COMPILE_BUILD_LOWERING": "plugin",  # `auto` would leave such small linears dense
    "PATCH_COMPILE_BUILD_PROMPT": "the cat sat",
    "PATCH_COMPILE_VERIFY_LENGTHS": "1,9",
    "PATCH_COMPILE_VERIFY_NEW_TOKENS": "2",
    "PATCH_COMPILE_RUN_NEW_TOKENS": "4",
    "PATCH_COMPILE_BENCH_ITERATIONS": "1",
    "PATCH_COMPILE_BENCH_WARM_UP": "0",
    "PATCH_COMPILE_BENCH_BATCH_SIZE": "1",
    "PATCH_COMPILE_BENCH_PROMPT_TOKENS": "9",
    "NO_COLOR": "1",
}


@contextmanager
def placed(
    folder: Path, patch: pytest.MonkeyPatch, *, hidden: int = 128, intermediate: int = 192, layers: int = 2
) -> Iterator[Path]:
    """Makes the folder the working folder of commands, with what pages name: models of these sizes, texts, samples."""
    first = write_model(
        folder / MODELS[0],
        "llama",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
    )
    for name in MODELS[1:]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(first, folder / name)
    # Enough for the windows that a build takes by default.
    text = " ".join(WORDS[(i * i) % len(WORDS)] for i in range(20_000))
    for name in TEXTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} {text}")
    (folder / "chats.jsonl").write_text(json.dumps({"text": text}) + "\n")
    for name in ("samples", "benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    patch.chdir(folder)
    for name, value in small_environment().items():
        patch.setenv(name, value)
    yield folder


def build_what_a_page_takes_for_granted(folder: Path) -> None:
    """Adds OUT, its masks and PRUNED_DIR, for a page that begins behind a build."""
    done = run_here(
        "build", "MODEL_DIR", "-o", "OUT", "--ratio", "0.4", "--calib", "calib.txt", "--eval", "eval.txt"
    )
    assert done.returncode == 0, done.stderr
    shutil.copy(folder / "OUT/masks.safetensors", folder)
    shutil.copytree(folder / "OUT/model", folder / "PRUNED_DIR")


def small_environment() -> Mapping[str, str]:
    """Variables under which the commands of pages run; a caller's own settings of patch-compile are gone."""
    return {
        name: "" for name in os.environ if name.startswith(("PATCH_COMPILE_BUILD", "PATCH_COMPILE_LEARN"))
    } | ENVIRONMENT
