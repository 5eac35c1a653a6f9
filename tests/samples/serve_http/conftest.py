"""A tiny model that ONNX Runtime runs, and a server for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from patch_compile.runtime import Generator, open_generator
from tests.samples.serve_http.serving import Running, serving
from tests.samples.serve_http.tiny import write_build


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="session")
def generator(out: Path) -> Generator:
    return open_generator(out, runner="onnx")


@pytest.fixture(scope="session")
def tiny(generator: Generator) -> Iterator[Running]:
    with serving(generator, queue=300) as running:
        yield running
