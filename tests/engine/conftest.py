import pytest


@pytest.fixture(scope="session")
def rtx():
    from patch_compile.engine.backend import load_backend

    return load_backend("tensorrt-rtx")


@pytest.fixture(scope="session")
def plugin():
    from patch_compile.plugin.build import build_plugin

    return build_plugin("tensorrt-rtx").path
