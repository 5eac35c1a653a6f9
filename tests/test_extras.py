"""A plain installation runs, inspects and plans; the other commands name the extra that they lack."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from masklearn.base.extras import EXTRAS, is_installed, require_extra
from tests.builds import build
from tests.refusals import refusal, refused

ROOT = Path(__file__).parents[1]
# Runs the command in a process that does not find the packages of the extra.
PLAIN = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {packages!r}
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
sys.argv = ["patch-compile", *sys.argv[1:]]
from patch_compile.cli.app import main
main()
"""


def run_plain(*words: Any) -> subprocess.CompletedProcess[str]:
    code = PLAIN.format(packages=set(EXTRAS["build"]))
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})


def done(*words: Any) -> str:
    finished = run_plain(*words)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_table_is_the_projects() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = (re.match(r"[\w-]+", line) for line in declared["optional-dependencies"]["build"])
    assert sorted(EXTRAS["build"]) == sorted(name[0].replace("-", "_") for name in names if name)
    assert not [line for line in declared["dependencies"] if line.startswith(tuple(EXTRAS["build"]))]


def test_a_build_is_run_inspected_and_planned(settings: dict[str, Any]) -> None:
    out = settings["out"]
    build(settings)
    (completion,) = json.loads(done("run", out, "the cat", "--new-tokens", "3", "--json"))["completions"]
    assert 1 <= len(completion["tokens"]) <= 3
    for path in (out, out / "onnx" / "model.onnx", out / "masks.safetensors", settings["model"]):
        assert json.loads(done("inspect", path, "--json"))["faults"] == []
    given = ("--ratio", "0.4", "--target", "a6000", "--tile", "64x64", "--json")
    with_torch = subprocess.run(
        [sys.executable, "-m", "patch_compile", "plan", str(settings["model"]), *given],
        capture_output=True,
        text=True,
    )
    assert json.loads(done("plan", settings["model"], *given)) == json.loads(with_torch.stdout)


def test_doctor_names_what_is_left_out() -> None:
    found = json.loads(done("doctor", "--json"))
    (packages,) = (one for one in found["findings"] if one["what"] == "build packages")
    assert not packages["found"] and packages["about"].startswith("not installed: ")
    assert "torch" in packages["about"] and packages["fix"] == "pip install 'patch-compile[build]'"
    assert "learn masks and compile to ONNX: no build packages" in found["cannot"]
    assert "run ONNX files on ONNX Runtime" in found["can"]


@pytest.mark.parametrize(
    "words",
    [
        ("build", "MODEL", "--ratio", "0.4"),
        ("learn", "MODEL", "-o", "OUT", "--ratio", "0.4"),
        ("compile", "MODEL", "-o", "OUT", "--mask", "FILE"),
        ("import-mask", "SOURCE", "-o", "FILE", "--model", "MODEL"),
        ("verify", "OUT"),
        ("bench", "OUT"),
        ("export", "OUT"),
    ],
)
def test_missing_packages_name_their_install(words: tuple[str, ...], tmp_path: Path) -> None:
    words = tuple(str(tmp_path) if word.isupper() else word for word in words)
    refusal(run_plain(*words))


def test_what_is_installed_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("json") and not is_installed("no_such_package")
    require_extra("build", "This")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with refused():
        require_extra("build", "This")
