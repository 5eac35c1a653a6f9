"""`import patch_compile` gives the functions, and imports nothing heavy."""

import pkgutil
import subprocess
import sys

import pytest

import patch_compile

REFUSED = "\ntry: {}\nexcept patch_compile.UsageError as error: print(error.what)"


def fresh(code):
    """Return the output of a program in a process of its own, where imports of other tests do not count."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_function_is_called_after_any_import():
    call = REFUSED.format("patch_compile.build('m')") * 2
    for imports in ("import patch_compile", "import patch_compile.pipeline.stages, patch_compile"):
        assert fresh(imports + call) == "No ratio is given\nNo ratio is given"


def test_no_module_has_the_name_of_a_function():
    modules = {module.name for module in pkgutil.iter_modules(patch_compile.__path__)}
    assert "pipeline" in modules and not modules & set(patch_compile.__all__)


def test_every_name_is_there():
    names = fresh(
        "import patch_compile\n"
        "for name in patch_compile.__all__: print(name, callable(getattr(patch_compile, name)), name in dir(patch_compile))"
    )
    assert names.splitlines() == [f"{name} True True" for name in patch_compile.__all__]
    with pytest.raises(AttributeError, match="no attribute 'prayer'"):
        patch_compile.prayer  # noqa: B018


def test_importing_is_light():
    heavy = "{'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'tensorrt_rtx', 'rich', 'click'}"
    assert fresh(f"import sys, patch_compile; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_onnx_runtime_collects_nothing_about_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    fresh("import patch_compile, onnxruntime")
    assert list(tmp_path.iterdir()) == []
