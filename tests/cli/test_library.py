"""`import patch_compile` gives the functions, whatever is imported before or after, and imports nothing heavy."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import patch_compile

PACKAGES = [
    name
    for name in patch_compile.__all__
    if name in {m.name for m in pkgutil.iter_modules(patch_compile.__path__)}
]
REFUSED = "\ntry: {}\nexcept patch_compile.UsageError as error: print(error.what)"


def fresh(code):
    """Return the output of a program in a process of its own, where imports of other tests do not count."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "imports",
    [
        "import patch_compile",
        "import patch_compile, patch_compile.build.stages",
        "import patch_compile.build.stages, patch_compile",
        "import patch_compile.build.stages as stages, patch_compile",
        "import patch_compile\nfrom patch_compile.build import stages",
        "import patch_compile\npatch_compile.build\nimport patch_compile.build.stages as stages\nstages.__name__",
        "import patch_compile\nfrom patch_compile.api.build import build\nimport patch_compile.build.stages",
    ],
)
def test_the_function_can_be_called_after_any_import(imports):
    call = REFUSED.format("patch_compile.build('m')") * 2
    assert fresh(imports + call) == "No ratio is given\nNo ratio is given"
    if "stages" in imports:
        assert fresh(f"{imports}\nprint(patch_compile.build.stages.__name__)") == "patch_compile.build.stages"


def test_from_import_in_both_orders():
    call = REFUSED.format("build('m')")
    assert fresh(f"import patch_compile\nfrom patch_compile import build{call}") == "No ratio is given"
    first = "import patch_compile.build.stages\nimport patch_compile\nfrom patch_compile import build"
    assert fresh(first + call) == "No ratio is given"


def test_every_name_is_there():
    names = fresh(
        "import patch_compile\n"
        "for name in patch_compile.__all__: print(name, callable(getattr(patch_compile, name)), name in dir(patch_compile))"
    )
    assert names.splitlines() == [f"{name} True True" for name in patch_compile.__all__]
    with pytest.raises(AttributeError, match="no attribute 'prayer'"):
        patch_compile.prayer  # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_with_the_name_of_a_function_has_its_signature(name):
    code = (
        f"import inspect, importlib, patch_compile\nfunction = importlib.import_module('patch_compile.api.{name}').{name}\n"
        f"print(inspect.signature(patch_compile.{name}) == inspect.signature(function))"
    )
    assert fresh(code) == "True"


def test_the_packages_are_known():
    assert tuple(PACKAGES) == patch_compile._PACKAGES


def test_importing_is_light():
    heavy = "{'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'tensorrt_rtx', 'rich', 'click'}"
    assert fresh(f"import sys, patch_compile; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_onnx_runtime_collects_nothing_about_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    fresh("import patch_compile, onnxruntime")
    assert list(tmp_path.iterdir()) == []


def test_type_checkers_see_the_names():
    text = Path(str(patch_compile.__file__)).read_text()
    (block,) = (node for node in ast.parse(text).body if isinstance(node, ast.If))
    imported = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(patch_compile.__all__)
