"""An engine gets a library of the cache that its GPU runs, and no machine loads a library for another one."""

import os
from pathlib import Path

import pytest

from patch_compile.packing.function import VERSION
from patch_compile.plugin.identity import check_backend, read_identity
from patch_compile.plugin.prebuilt import LIBRARY_NAME
from patch_compile.plugin.targets import ARCHS, VARIABLE, archs_for, this_machine
from patch_compile.plugin.trust import matching_library
from tests.plugin.identities import identity_text
from tests.refusals import refused


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "patch-compile" / "plugin"


def library(
    cache: Path,
    key: str,
    used: int,
    archs: str,
    backend: str = "tensorrt-rtx",
    machine: str = this_machine(),
    kernels: str = "all",
) -> Path:
    """A file with the identity of a library; used: seconds since 1970."""
    path = cache / key / LIBRARY_NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(identity_text(backend, archs, machine=machine, kernels=kernels))
    os.utime(path, (used, used))
    return path


def test_the_library_used_last_that_all_gpus_run(cache: Path) -> None:
    assert matching_library("tensorrt-rtx", VERSION, ()) is None
    ada = library(cache, "ada", 3, "890")
    assert matching_library("tensorrt-rtx", VERSION, (86,)) is None
    every = library(cache, "every", 1, "800,860,890,900,1200")
    ampere = library(cache, "ampere", 2, "800")
    library(cache, "other", 4, "800", "tensorrt")
    assert matching_library("tensorrt-rtx", VERSION, ()) == ada
    assert matching_library("tensorrt-rtx", None, (89,)) == ada
    assert matching_library("tensorrt-rtx", VERSION, (86,)) == ampere
    assert matching_library("tensorrt-rtx", VERSION, (89, 86)) == ampere
    os.utime(every)
    assert matching_library("tensorrt-rtx", VERSION, (89, 86)) == every
    assert matching_library("tensorrt-rtx", 1, ()) is None


def test_a_library_for_another_machine_is_not_taken(cache: Path) -> None:
    foreign = library(cache, "other", 1, "800", machine="riscv64")
    assert read_identity(foreign).machine == "riscv64"
    with refused():
        check_backend(foreign, "tensorrt-rtx")
    assert matching_library("tensorrt-rtx", VERSION, ()) is None
    own = library(cache, "own", 0, "800")
    assert matching_library("tensorrt-rtx", VERSION, ()) == own


def test_a_library_that_lacks_kernels_is_not_taken(cache: Path) -> None:
    full = library(cache, "full", 1, "800")
    some = library(cache, "some", 2, "800", kernels="half+int8_half")
    assert matching_library("tensorrt-rtx", VERSION, (80,)) == full
    assert matching_library("tensorrt-rtx", VERSION, (80,), ("int8_half",)) == some
    assert matching_library("tensorrt-rtx", VERSION, (80,), ("half", "all_half")) == full


def test_a_jetson_gets_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs no machine code of other GPUs of its generation."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert archs_for([87]) == (80, 86, 87, 89, 90, 120) and archs_for([86]) == ARCHS
    monkeypatch.setenv(VARIABLE, "87")
    assert archs_for([87]) == (87,)
    monkeypatch.setenv(VARIABLE, "90")
    with refused():
        archs_for([87])


def test_unrunnable_architectures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "86,89")
    assert archs_for([]) == archs_for([89, 120]) == (86, 89)
    with refused():
        archs_for([86, 80])
