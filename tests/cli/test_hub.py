"""A hub id in the place of a model's folder."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.hub import COMMIT, Hub, serving
from tests.commands import run
from tests.conftest import ModelMaker
from tests.refusals import refusal

PINNED = f"tiny/llama@{COMMIT}"


@pytest.fixture
def hub(make_model: ModelMaker, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the model tiny/llama, in four shards, and pickles that nobody may fetch."""
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=2, shard="300KB")
    for name in ("pytorch_model.bin", "llama.gguf", "consolidated.safetensors", "consolidated.00.pth"):
        (model / name).write_bytes(b"pickles")
    with serving({"tiny/llama": model}) as server:
        yield server


def test_a_plan_fetches_only_the_config(hub: Hub, tmp_path: Path) -> None:
    env = hub.environment(tmp_path / "hf")
    done = run("plan", "tiny/llama", "--ratio", 0.4, "--target", "a6000", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert hub.files == {"config.json"}
    folder = run("plan", hub.models["tiny/llama"], "--ratio", 0.4, "--target", "a6000", "--json")
    theirs, ours = json.loads(folder.stdout), json.loads(done.stdout)
    assert ours["model"] == PINNED and ours["whole"] == theirs["whole"]


def test_builds_run_offline_from_the_cache(hub: Hub, text_file: Path, tmp_path: Path) -> None:
    flags = ["--method", "wanda", "--tile", "64x64", "--windows", 2, "--length", 24, "--calib", text_file]
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[1000:])
    env = hub.environment(tmp_path / "hf")
    offline = env | {"HF_HUB_OFFLINE": "1"}
    assert run("plan", "tiny/llama", "--ratio", 0.4, env=env).returncode == 0
    refusal(run("build", "tiny/llama", "--ratio", 0.4, cwd=tmp_path, env=offline))
    learned = run("learn", "tiny/llama", "-o", "learned", "--ratio", 0.4, *flags, cwd=tmp_path, env=env)
    assert learned.returncode == 0 and "Fetching" not in learned.stderr, learned.stderr
    shards = {file.name for file in hub.models["tiny/llama"].glob("model-*.safetensors")}
    assert len(shards) == 4
    assert shards | {"tokenizer.json", "model.safetensors.index.json"} < hub.files
    assert not [
        file for file in hub.files if file.endswith((".bin", ".gguf", ".pth")) or "consolidated" in file
    ]

    hub.asked.clear()
    recipe = tmp_path / "learned/recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["model"] == PINNED
    again = ["--recipe", recipe, "--backend", "onnx", "--lowering", "plugin", "--eval", other]
    built = run("build", *again, "--eval-windows", 2, "--eval-length", 24, cwd=tmp_path, env=offline)
    assert built.returncode == 0, built.stderr
    checked = run(
        "verify", "llama-patch-0.40", "--only", "compiled", "--lengths", 5, cwd=tmp_path, env=offline
    )
    assert checked.returncode == 0, checked.stderr
    assert not hub.asked
    out = tmp_path / "llama-patch-0.40"
    assert json.loads((out / "manifest.json").read_text())["model"]["path"] == PINNED
    assert "base_model: tiny/llama\n" in (out / "README.md").read_text()
    assert (out / "masks.safetensors").read_bytes() == (tmp_path / "learned/masks.safetensors").read_bytes()


def test_a_folder_wins_over_the_hub(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(hub.models["tiny/llama"], tmp_path / "tiny/llama")
    done = run(
        "plan", "tiny/llama", "--ratio", 0.4, "--json", cwd=tmp_path, env=hub.environment(tmp_path / "hf")
    )
    assert json.loads(done.stdout)["model"] == str(tmp_path / "tiny/llama") and not hub.asked


def test_an_interrupted_download_leaves_plans_possible(hub: Hub, tmp_path: Path) -> None:
    env = hub.environment(tmp_path / "hf")
    code = (
        "from huggingface_hub import hf_hub_download as get; "
        "get('tiny/llama', 'model-00001-of-00004.safetensors'); print(get('tiny/llama', 'model.safetensors.index.json'))"
    )
    assert COMMIT in run_python(code, env)
    done = run("plan", "tiny/llama", "--ratio", 0.4, "--target", "a6000", env=env)
    assert done.returncode == 0, done.stderr


def test_a_fetch_ignores_the_switches_of_libraries(hub: Hub, tmp_path: Path) -> None:
    """By the library, which takes hub ids too."""
    code = (
        "import patch_compile; from patch_compile.progress import quiet_libraries; quiet_libraries(); "
        "print(patch_compile.plan('tiny/llama@main', ratio=0.4).report.model); "
        "from huggingface_hub import constants, utils; "
        "print(constants.HF_HUB_OFFLINE, utils.are_progress_bars_disabled())"
    )
    assert run_python(code, hub.environment(tmp_path / "hf")).split("\n") == [PINNED, "True True"]


@pytest.mark.parametrize(
    "model", ["tiny/none", "tiny/gated", "tiny/empty", "tiny/llama@v2", "tiny--llama/x", "tiny/llama/x"]
)
def test_unknown_models_are_refused(hub: Hub, tmp_path: Path, model: str) -> None:
    (tmp_path / "empty").mkdir()
    hub.models |= {"tiny/empty": tmp_path / "empty", "tiny/gated": hub.models["tiny/llama"]}
    hub.gated.add("tiny/gated")
    done = run("plan", model, "--ratio", 0.4, cwd=tmp_path, env=hub.environment(tmp_path / "hf"))
    refusal(done)


def test_a_token_opens_gated_models(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("tiny/llama")
    done = run("plan", "tiny/llama", "--ratio", 0.4, env=hub.environment(tmp_path / "hf", HF_TOKEN="hf_x"))
    assert done.returncode == 0, done.stderr


def test_pickles_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    for file in hub.models["tiny/llama"].glob("*.safetensors*"):
        file.unlink()
    env = hub.environment(tmp_path / "hf")
    refusal(run("build", "tiny/llama", "--ratio", 0.4, cwd=tmp_path, env=env))
    assert "tokenizer.json" in hub.files and "pytorch_model.bin" not in hub.files


def test_a_hub_that_is_down_is_named(hub: Hub, tmp_path: Path) -> None:
    env = hub.environment(tmp_path / "hf")
    hub.shutdown()
    hub.server_close()
    for command in ("plan", "build"):
        refusal(run(command, "tiny/llama", "--ratio", 0.4, cwd=tmp_path, env=env))


def run_python(code: str, env: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
