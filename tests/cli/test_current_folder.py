"""No command runs code of the folder that it is started in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patch_compile.cli.app import cli
from patch_compile.pipeline.build import build
from patch_compile.recipe import Recipe
from tests.builds import TINY
from tests.cli.poison import MARKS, NAMES, marked, poison
from tests.conftest import texts_in, write_model
from tests.pipeline.test_edgellm import stand_in
from tests.samples.serve_http.serving import process
from tests.sources.onnx_model import graphs

ROOT = Path(__file__).parents[2]
# Arguments of each command, and its exit code. Paths are relative to the poisoned folder, which has all inputs.
# fmt: off
COMMANDS = {
    "bench": ("built", 1),  # it has no engine
    "build": ("model.onnx -o new --ratio 0.4 --method magnitude --tile 32x32 --backend onnx", 0),
    "compare": ("built twin", 0),
    "compile": ("model --mask built/masks.safetensors -o compiled --lowering plugin", 0),
    "debug reduce": ("built --linear model.layers.0.self_attn.q_proj -o reduced", 0),
    "doctor": ("", 0),
    "export": ("built --format edgellm=exporter/python", 0),
    "import-mask": ("built/model --model model -o imported.safetensors", 0),
    "inspect": ("built", 0),
    "learn": ("model -o learned --ratio 0.4 --tile 64x64 --calib text.txt --windows 2 --length 24 --repair-steps 1", 0),
    "plan": ("model --ratio 0.4 --target a6000", 0),
    "plugin": ("", 1),  # pip may not ask an index for TensorRT's headers
    "run": ("built the --new-tokens 2", 0),
    "verify": ("built --lengths 1,7 --tasks own --task-folder tasks --task-limit 2", 0),
}
# fmt: on
_TASK = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: '{{text}}'
doc_to_target: ' {{word}}'
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A poisoned folder with a model, a build of it, an ONNX file, a task and a stand-in for Edge-LLM's exporter."""
    folder = tmp_path_factory.mktemp("current")
    model = write_model(
        folder / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=2
    )
    texts = texts_in(folder)
    build(
        Recipe.parse({"model": model, "out": folder / "built", "ratio": 0.4, **TINY, **texts}),
        force=False,
        resume=False,
    )
    shutil.copytree(folder / "built", folder / "twin")
    graphs.export(graphs.mlp, folder / "model.onnx")
    (folder / "tasks").mkdir()
    (folder / "tasks/own.yaml").write_text(_TASK)
    (folder / "tasks/items.jsonl").write_text('{"text": "the cat", "word": "sat"}\n' * 2)
    (folder / "exporter").mkdir()
    stand_in(folder / "exporter")
    poison(folder)
    return folder


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the marks, and settings of every process that a test starts."""
    for name, value in {
        MARKS: tmp_path / "marks",
        "XDG_CACHE_HOME": tmp_path / "cache",
        "PIP_NO_INDEX": 1,
        "OMP_NUM_THREADS": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TENSORRT_ROOT", raising=False)
    return tmp_path / "marks"


def test_every_command_is_here() -> None:
    assert COMMANDS.keys() == cli.commands.keys()


def test_a_plain_python_would_run_the_code(folder: Path, marks: Path) -> None:
    code = "import pickle, csv, safetensors; print(pickle.dumps, csv.reader, safetensors.safe_open)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    assert {"pickle", "csv", "safetensors"} <= {name for _, name in marked(marks)} <= NAMES


def test_no_command_runs_code_of_the_folder(folder: Path, marks: Path) -> None:
    """One process runs all commands, because each would import torch for 8 s."""
    lines = "\n".join(f"{command} {arguments}" for command, (arguments, _) in COMMANDS.items())
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.cli.run_all"],
        input=lines,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    codes = dict(zip(COMMANDS, map(int, done.stdout.split()), strict=True))
    assert codes == {command: code for command, (_, code) in COMMANDS.items()}, done.stderr
    assert marked(marks) == set()


def test_the_server_runs_no_code_of_the_folder(folder: Path, marks: Path) -> None:
    with process(folder / "built", folder / "log", "--model", "tiny") as running:
        assert running.client.completions.create(model="tiny", prompt="the", max_tokens=2).choices
    assert marked(marks) == set()
