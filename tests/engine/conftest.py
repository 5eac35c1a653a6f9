from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def rtx():
    from patch_compile.engine.backend import load_backend

    return load_backend("tensorrt-rtx")


@pytest.fixture(scope="session")
def plugin():
    from patch_compile.plugin.build import build_plugin

    return build_plugin("tensorrt-rtx").path


@pytest.fixture(scope="session")
def build_to(rtx: Any, plugin: Path) -> Callable[..., Any]:
    """build_to(onnx_path, engine, **changed) builds an engine for sm86, with the plugin and what the ONNX file asks for."""
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures

    def build(onnx_path: Path, engine: Path, **changed: Any) -> Any:
        settings = {"backend": rtx, "targets": parse_architectures("sm86"), "plugin": plugin} | changed
        if "profiles" not in settings:
            settings["profiles"] = profiles_from_onnx(onnx_path)
        if "expected" not in settings:
            settings["expected"] = expectation_from_onnx(onnx_path)
        return build_engine(onnx_path, engine, **settings)

    return build
