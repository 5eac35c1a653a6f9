"""`patch-compile doctor` on this machine, and with tools removed."""

import json

import pytest

from patch_compile.api.results import Result
from patch_compile.inspection.doctor import examine
from patch_compile.plugin.build import build_plugin
from patch_compile.report.terminal import show
from tests.commands import run


def by_name(result):
    return {one["what"]: one for one in result["findings"]}


def test_every_lack_names_a_remedy():
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert all(one["found"] or one["fix"] for one in result["findings"])
    assert "learn masks and compile to ONNX" in result["can"]
    show(Result(result).sections())


def test_a_compiler_that_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = examine()
    nvcc, plugin = by_name(result)["nvcc"], by_name(result)["plugin"]
    assert not nvcc["found"] and "CUDACXX" in nvcc["fix"]
    assert not plugin["found"] and "patch-compile plugin" in plugin["fix"]
    assert any(line.startswith("build engines") for line in result["cannot"])
    show(Result(result).sections())
    assert "--  nvcc" in capsys.readouterr().out


@pytest.mark.rtx
def test_a_plugin_in_the_cache_needs_no_compiler(monkeypatch, tmp_path):
    build_plugin("tensorrt-rtx")
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    assert any(line.startswith("build engines") for line in examine()["can"])
