"""The origin of TensorRT's headers, as engine.json and the note of a build tell it."""

from pathlib import Path

import pytest

from patch_compile.pipeline.prepare import _headers_line
from patch_compile.pipeline.summary import headers_of
from patch_compile.plugin.build import PluginLibrary
from patch_compile.plugin.toolchain import HEADER_PACKAGE, HEADER_SHA256


def library(package: str | None) -> PluginLibrary:
    nvcc, headers = (Path("/usr/bin/nvcc"), "13.0.88"), (Path("/opt/tensorrt/include"), "11.4.0")
    return PluginLibrary(
        Path("/cache/plugin.so"), "tensorrt", (80,), ("half",), *nvcc, *headers, package, "0"
    )


def test_headers_of_an_installed_tensorrt() -> None:
    found = headers_of(library(None))
    assert (found.version, found.folder, found.package) == ("11.4.0", "/opt/tensorrt/include", None)
    assert _headers_line(library(None)).endswith("version 11.4.0, of /opt/tensorrt/include")


@pytest.mark.parametrize("word", [HEADER_PACKAGE, "a package of a third party", "sha256", "TENSORRT_ROOT"])
def test_third_party_headers_are_pinned(word: str) -> None:
    found = headers_of(library(HEADER_PACKAGE))
    assert (found.package, found.sha256, found.folder) == (HEADER_PACKAGE, HEADER_SHA256, None)
    assert word in _headers_line(library(HEADER_PACKAGE))
