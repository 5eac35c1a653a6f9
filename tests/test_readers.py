"""Every reader of data that anybody may have written uses the bounded readers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("patch_compile", "masklearn")
# Calls that check neither size, depth nor types, and what stands in their place.
UNBOUNDED = {
    "json.loads": "masklearn.base.safe_read.parse_json",
    "json.load": "masklearn.base.safe_read.read_json",
    "yaml.safe_load": "patch_compile.artifacts.recipe_file.read_recipe",
    "np.load": "masklearn.base.npz.ArrayArchive",
    "np.prod": "math.prod, which does not overflow",
    "onnx.load": "patch_compile.onnx_io.proto.load_proto",
    "tomllib.load": "none yet",
    "tomllib.loads": "none yet",
    "pickle.load": "nothing: a pickle is a program",
    "pickle.loads": "nothing: a pickle is a program",
    "torch.load": "safetensors",
    "yaml.load": "nothing: tags are programs",
}
# The bounded readers themselves, and readers of files that come with the package or that the same run has written.
ALLOWED = {
    "masklearn/model/folder.py": {"yaml.safe_load"},  # of the first 64 KiB, from which it takes short texts
    "masklearn/base/safe_read.py": {"json.loads"},
    "patch_compile/artifacts/recipe_file.py": {"yaml.safe_load"},
    "patch_compile/onnx_io/proto.py": {"onnx.load"},
    "masklearn/methods/gradient/prior.py": {"json.loads"},
    "masklearn/stream/hidden_states.py": {"json.loads"},
    "masklearn/training/checkpoints.py": {"json.loads"},
    "patch_compile/engine/plan_program.py": {"json.loads"},
    "patch_compile/python_process.py": {"pickle.load"},  # between two processes of this program
    "patch_compile/planning/roofline/launch_work.py": {"json.loads"},
    "patch_compile/verification/last_words.py": {"json.loads"},
}


def unbounded(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id.replace('numpy', 'np')}.{node.attr}"
            if name in UNBOUNDED:
                yield name


def test_readers_are_bounded() -> None:
    found = {
        str(file.relative_to(ROOT)): set(unbounded(file.read_text(encoding="utf-8")))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }
    assert {file: names for file, names in found.items() if names} == ALLOWED


@pytest.mark.parametrize("source", ["json.loads(x)", "a = np.load", "numpy.load(x)", "torch.load(x)"])
def test_the_check_itself(source: str) -> None:
    assert list(unbounded(source))
