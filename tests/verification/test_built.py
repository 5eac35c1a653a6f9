"""The question whether an engine was built right, on an engine and a GPU in host memory, compared with ONNX Runtime."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from patch_compile.artifacts.verify import EngineCompared
from patch_compile.engine.backend import Runner
from patch_compile.progress import Progress
from patch_compile.runtime.decoder import Limits
from patch_compile.runtime.engine_decoder import EngineDecoder
from patch_compile.runtime.locate import open_generator
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.verification import built
from patch_compile.verification.built import built_right, compare_decoders
from tests.runtime.conftest import OutOf, out_of  # noqa: F401 - a fixture
from tests.runtime.host_engine import DECODE, PREFILL, HostDevice, HostEngine

PROMPTS = [np.array([5], np.int64), np.arange(3, 12)]


def engine_of(onnx_file: Path) -> EngineDecoder:
    device = HostDevice()
    return EngineDecoder(HostEngine(onnx_file, device, [PREFILL, DECODE]), device, "host", Limits(), None)


def test_an_engine_that_computes_the_same_passes(out_of: OutOf) -> None:  # noqa: F811
    onnx_file = out_of("llama") / "onnx/model.onnx"
    found = compare_decoders(engine_of(onnx_file), OnnxDecoder(onnx_file), PROMPTS, "float16", 2)
    assert found.passed and found.tolerance.rounding_models == 2
    runs = [(run.phase, run.tokens, run.past) for run in found.runs]
    assert runs[:2] == [("prefill", 1, 0), ("decode", 1, 1)] and len(runs) == 2 * (1 + 4)


class Astray:
    """A decoder whose logits are wrong from a step on, by a share of the largest logit."""

    name = "astray"

    def __init__(self, decoder: OnnxDecoder, off: float, after: int) -> None:
        self._decoder, self._off, self._after = decoder, off, after

    def start(self, *given: Any) -> Any:
        decoding, steps, outer = self._decoder.start(*given), 0, self

        class Decoding:
            close = decoding.close

            @property
            def logits(self) -> Any:
                made = decoding.logits.copy()
                if steps >= outer._after:
                    made[0, 7] += outer._off * np.abs(made).max()
                return made

            def step(self, tokens: Any) -> None:
                nonlocal steps
                steps += 1
                decoding.step(tokens)

        return Decoding()


@pytest.mark.parametrize("off", [0.1, np.nan])
def test_engines_wrong_in_decode_fail(out_of: OutOf, off: float) -> None:  # noqa: F811
    decoder = OnnxDecoder(out_of("llama") / "onnx/model.onnx")
    found = compare_decoders(Astray(decoder, off, 3), decoder, PROMPTS, "float16", 2)
    assert not found.passed
    errors = {run.past: run.error for run in found.runs if run.phase == "decode"}
    assert errors[2] == 0.0
    assert errors[3] is None or errors[3] > 0.05


def test_gpus_hold_engines_to_onnx(
    out_of: OutOf,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the function that opens the engine is replaced."""
    source = out_of("llama")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/model.engine").write_bytes(b"engine")
    for name in ("onnx", "model"):
        (tmp_path / name).symlink_to(source / name)

    def opened(out: Path, runner: Runner, **_: bool) -> Any:
        if runner is Runner.ONNX:
            return open_generator(out, runner=runner)
        return SimpleNamespace(decoder=engine_of(out / "onnx/model.onnx"))

    monkeypatch.setattr(built, "open_generator", opened)
    found = built_right(tmp_path, PROMPTS, "float16", 2, Progress())
    assert isinstance(found, EngineCompared) and found.passed and found.engine == "host"
