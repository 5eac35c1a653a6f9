"""Options of the builder: TensorRT-RTX's with the real library, refusals, and the calls made to full TensorRT."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from patch_compile.engine.backend import BackendName
from patch_compile.engine.options import EngineOptions
from tests.commands import run_here
from tests.engine import graphs
from tests.refusals import refusal, refused


@pytest.mark.rtx
def test_rtx_builds_with_what_it_has(tmp_path: Path, build_to: Any) -> None:
    """The flag reaches the builder: builds with equal flags are equal to the byte, and another flag changes them."""
    chain = graphs.write_chain(tmp_path / "chain.onnx")
    engines = []
    later = EngineOptions(compatible=("versions",))
    for number, options in enumerate((EngineOptions(), EngineOptions(), later)):
        engines.append(tmp_path / str(number) / "model.engine")
        build_to(chain, engines[-1], options=options)
    plain, again, other = (engine.read_bytes() for engine in engines)
    assert plain == again != other


@pytest.mark.parametrize(
    ("backend", "option"),
    [
        pytest.param("tensorrt-rtx", {"timing_cache": Path("t")}, id="timing_cache"),
        ("tensorrt-rtx", {"compatible": ("versions", "hardware")}),
        ("onnx", {"embed_plugin": True}),
        ("onnx", {"compatible": ("versions",)}),
    ],
)
def test_backends_refuse_flags_they_lack(backend: str, option: dict[str, Any]) -> None:
    with refused():
        EngineOptions(**option).check(BackendName(backend))
    EngineOptions(**option).check(BackendName.TENSORRT)
    EngineOptions().check(BackendName(backend))


def test_a_build_is_refused_before_anything_is_learned(settings: dict[str, Any], tmp_path: Path) -> None:
    model, out = str(settings["model"]), tmp_path / "out"
    refusal(run_here("build", model, "-o", out, "--ratio", "0.4", "--backend", "onnx", "--embed-plugin"))
    assert not out.exists()


class _Config:
    """The part of IBuilderConfig that keeps timings; its cache accepts data with its own prefix."""

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return cache in (b"", b"here")

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"here")


def test_a_timing_cache_is_read_and_written(tmp_path: Path) -> None:
    """Only the order of calls is tested; TensorRT is not involved."""
    backend: Any = SimpleNamespace(trt=None, name="tensorrt", version="11")
    file = tmp_path / "folder" / "timings"
    options, config = EngineOptions(timing_cache=file), _Config()
    options.apply(backend, config)
    assert config.cache == b""
    options.keep_timings(config)
    assert file.read_bytes() == b"here" and [*file.parent.iterdir()] == [file]
    options.apply(backend, config)
    assert config.cache == b"here"
    file.write_bytes(b"of another GPU")
    with refused():
        options.apply(backend, config)
