"""Passes the path of a wheel's cuBLASLt to the plugin."""

import sys

import pytest

from patch_compile.engine.plugin_library import VARIABLE, name_cublaslt

CUDA_13, CUDA_12 = "nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12"


@pytest.mark.parametrize(
    ("wheels", "named"),
    [((CUDA_13,), CUDA_13), ((CUDA_12,), CUDA_12), ((CUDA_12, CUDA_13), CUDA_13), ((), None)],
)
def test_the_newest_of_the_wheels_is_named_unless_the_user_names_one(monkeypatch, tmp_path, wheels, named):
    for wheel in wheels:
        (tmp_path / wheel).parent.mkdir(parents=True)
        (tmp_path / wheel).touch()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "other"), str(tmp_path)])
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    name_cublaslt()
    assert environment == ({} if named is None else {VARIABLE: str(tmp_path / named)})
    environment[VARIABLE] = "/mine.so"
    name_cublaslt()
    assert environment == {VARIABLE: "/mine.so"}
