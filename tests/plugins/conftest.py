from pathlib import Path

import pytest

from tests.plugins.host_kernel import HostKernel, compile_host_kernel


@pytest.fixture(scope="session")
def library_cache(request) -> Path:
    """Keeps compiled kernels between runs; a library's name is the hash of its sources."""
    return request.config.cache.mkdir("patch-host-kernel")


@pytest.fixture(scope="session")
def kernel(library_cache) -> HostKernel:
    return compile_host_kernel(library_cache)
