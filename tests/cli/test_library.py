"""`import patch_compile` and `import masklearn` give all public names, and import nothing heavy."""

import pkgutil
import subprocess
import sys

import pytest

import masklearn
import patch_compile
from tests.commands import run_here
from tests.refusals import refusal, refused


def fresh(code):
    """Return the output of a program in a process of its own, where imports of other tests do not count."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_module_has_the_name_of_a_function():
    modules = {module.name for module in pkgutil.iter_modules(patch_compile.__path__)}
    assert "pipeline" in modules and not modules & set(patch_compile.__all__)


@pytest.mark.parametrize("package", [patch_compile, masklearn], ids=lambda package: package.__name__)
def test_every_name_is_there(package):
    name = package.__name__
    documented = fresh(
        f"import {name}\nfor name in {name}.__all__: print(name, bool(getattr({name}, name).__doc__), name in dir({name}))"
    )
    assert documented.splitlines() == [f"{name} True True" for name in package.__all__]
    with pytest.raises(AttributeError, match="no attribute 'prayer'"):
        package.prayer  # noqa: B018


def test_help_shows_a_function_and_its_options():
    shown = fresh("import patch_compile; help(patch_compile.plan)")
    assert shown.startswith("Help on function plan in module patch_compile.api.commands:")
    assert "- `ratio`: Share of weights set to zero" in shown


def test_errors_of_the_library_speak_of_arguments(tmp_path):
    (tmp_path / "out").mkdir()
    for call in (
        lambda: patch_compile.build("m"),
        lambda: patch_compile.plan("m", ratio=0.4, kinds="3:4"),
        lambda: patch_compile.export(tmp_path),
    ):
        with refused() as caught:
            call()
        assert " --" not in str(caught.error) and caught.error.fix.rstrip(".") in str(caught.error)
    refusal(run_here("build", "m"))


@pytest.mark.parametrize("module", ["patch_compile.api.commands", "masklearn"])
def test_importing_is_light(module):
    heavy = "{'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'tensorrt_rtx', 'rich', 'click'}"
    assert fresh(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_onnx_runtime_collects_nothing_about_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    fresh("import patch_compile, onnxruntime")
    assert list(tmp_path.iterdir()) == []
