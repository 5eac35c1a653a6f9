"""A library of patch-compile-plugin is taken if, and only if, the release names its sha256. Records name the origin of
TensorRT's headers."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from patch_compile.packing.function import VERSION
from patch_compile.pipeline.prepare import _headers_line
from patch_compile.pipeline.summary import headers_of
from patch_compile.plugin import prebuilt
from patch_compile.plugin.build import PluginLibrary, build_plugin
from patch_compile.plugin.targets import this_machine
from patch_compile.plugin.toolchain import HEADER_PACKAGE, HEADER_SHA256
from patch_compile.plugin.trust import library_made_here, matching_library
from tests.plugin.identities import identity_text
from tests.refusals import refused

RTX = "tensorrt-rtx"
ARCHS = "800,860"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library of an installed package, whose sha256 the release names. Its own code must not run."""
    library = tmp_path / "site" / prebuilt.PACKAGE / RTX / prebuilt.LIBRARY_NAME
    library.parent.mkdir(parents=True)
    library.write_bytes(identity_text(RTX, ARCHS))
    (library.parents[1] / "__init__.py").write_text("raise AssertionError('it was imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDACXX", str(tmp_path / "no-nvcc"))
    name(library, tmp_path, monkeypatch)
    assert prebuilt.PACKAGE not in sys.modules
    return library


def name(library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, machine: str = this_machine()) -> None:
    """Let the release name this library, for a kind of machine."""
    pinned = folder / "payloads.json"
    pinned.write_text(json.dumps({machine: {RTX: hashlib.sha256(library.read_bytes()).hexdigest()}}))
    monkeypatch.setattr(prebuilt, "PAYLOADS", pinned)


def test_it_is_taken_without_a_compiler(installed: Path) -> None:
    found = build_plugin(RTX, archs=(86,))
    assert (found.path, found.archs, found.nvcc, found.headers) == (installed, (80, 86), None, None)
    assert headers_of(found).version == "10.14" and "patch-compile-plugin" in _headers_line(found)
    assert matching_library(RTX, VERSION, (86,)) == installed
    (copy := installed.with_name("copy.so")).write_bytes(installed.read_bytes())
    assert library_made_here(copy) == installed


@pytest.mark.parametrize(
    "asked", [{"archs": (86, 120)}, {"archs": (86,), "force": True}, {"archs": (86,), "prebuilt": False}]
)
def test_forced_builds_need_the_compiler(installed: Path, asked: dict[str, object]) -> None:
    with refused():
        build_plugin(RTX, **({"archs": (86,)} | asked))  # type: ignore[arg-type]


def test_one_that_changed_is_a_stranger(installed: Path) -> None:
    installed.write_bytes(installed.read_bytes() + b"more")
    assert "its sha256 is another one" in prebuilt.why_no_prebuilt(RTX)
    said: list[str] = []
    with refused():
        build_plugin(RTX, archs=(86,), log=said.append)
    assert any("patch-compile-plugin is not used" in line for line in said)
    assert matching_library(RTX, VERSION, ()) is None and library_made_here(installed) is None


def test_a_checkout_takes_none(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prebuilt, "PAYLOADS", tmp_path / "missing.json")
    assert prebuilt.prebuilt_library(RTX) is None and not list(prebuilt.prebuilt_plugins())
    assert "names no sha256" in prebuilt.why_no_prebuilt(RTX)


def test_a_library_of_another_backend_is_refused(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed.write_bytes(identity_text("tensorrt", ARCHS))
    name(installed, tmp_path, monkeypatch)
    with refused():
        build_plugin(RTX, archs=(86,))


def test_a_library_for_another_machine_is_a_stranger(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name(installed, tmp_path, monkeypatch, "riscv64")
    assert prebuilt.prebuilt_library(RTX) is None and "names no sha256" in prebuilt.why_no_prebuilt(RTX)


def test_without_the_package_nothing_is_said(installed: Path) -> None:
    assert prebuilt.why_no_prebuilt("tensorrt") == "" and prebuilt.prebuilt_library("tensorrt") is None


def compiled(package: str | None) -> PluginLibrary:
    nvcc, headers = (Path("/usr/bin/nvcc"), "13.0.88"), (Path("/opt/tensorrt/include"), "11.4.0")
    return PluginLibrary(
        Path("/cache/plugin.so"), "tensorrt", (80,), ("half",), *nvcc, *headers, package, "0"
    )


def test_headers_of_an_installed_tensorrt() -> None:
    found = headers_of(compiled(None))
    assert (found.version, found.folder, found.package) == ("11.4.0", "/opt/tensorrt/include", None)
    assert _headers_line(compiled(None)).endswith("version 11.4.0, of /opt/tensorrt/include")


def test_third_party_headers_are_pinned() -> None:
    found = headers_of(compiled(HEADER_PACKAGE))
    assert (found.package, found.sha256, found.folder) == (HEADER_PACKAGE, HEADER_SHA256, None)
    words = (HEADER_PACKAGE, "a package of a third party", "sha256", "TENSORRT_ROOT")
    assert all(word in _headers_line(compiled(HEADER_PACKAGE)) for word in words)
