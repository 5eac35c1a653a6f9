import ctypes

import pytest

from tests.plugins.dense_path_cases import PIECE
from tests.plugins.dense_plugin import EAGER, DensePlugin, compile_driver, compile_stand_in


@pytest.fixture(scope="session")
def driver(library_cache):
    return compile_driver(library_cache, defines=("PATCH_KERNEL_CLOCKS=0",))


@pytest.fixture(scope="session")
def small_driver(library_cache):
    return compile_driver(library_cache, defines=(f"PATCH_PIECE_BYTES={PIECE}", "PATCH_KERNEL_CLOCKS=0"))


@pytest.fixture(scope="session")
def library(library_cache):
    return compile_stand_in(library_cache)


@pytest.fixture(scope="session")
def cublaslt(library):
    return ctypes.CDLL(str(library))


@pytest.fixture
def load(monkeypatch, tmp_path, library):
    """Loads a driver with the cuBLASLt at a path, as if only the plugin were in its process."""

    def loaded(driver, path=library):
        monkeypatch.setenv("PATCH_CUBLASLT", str(path))
        plugin = DensePlugin(driver, tmp_path)
        plugin.device(EAGER)
        return plugin

    return loaded


@pytest.fixture(scope="session")
def unpacker(driver, tmp_path_factory):
    return DensePlugin(driver, tmp_path_factory.mktemp("unpacker"))
