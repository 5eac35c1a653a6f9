"""The runtime's decoder of engines, on an engine and a GPU in host memory, compared with its decoder of ONNX files."""

import gc
import threading
import time
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.runtime import Generator, kv_cache, open_generator
from patch_compile.runtime.decoder import Limits, pad_left
from patch_compile.runtime.engine_decoder import EngineDecoder
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from tests.refusals import refused
from tests.runtime.conftest import OutOf
from tests.runtime.host_engine import DECODE, PREFILL, HostDevice, HostEngine

PROMPTS = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 13]]
WINDOW = 5  # the tiny mistral's


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the past grow often."""
    monkeypatch.setattr(kv_cache, "SLOTS", 8)


def decoder_of(out_of: OutOf, kind: str = "llama", profiles: Any = None, **options: Any) -> EngineDecoder:
    device = HostDevice()
    engine = HostEngine(out_of(kind) / "onnx/model.onnx", device, profiles or [PREFILL, DECODE])
    window = WINDOW if kind == "mistral" else None
    return EngineDecoder(engine, device, "host", options.get("limits", Limits()), window)


def compare(engine: EngineDecoder, onnx: OnnxDecoder, prompts: list[list[int]], steps: int) -> None:
    """Feed both the same tokens and check that their logits agree at each step, up to rounding."""
    rng = np.random.default_rng(0)
    with (
        closing(engine.start(*pad_left(prompts), steps)) as one,
        closing(onnx.start(*pad_left(prompts), steps)) as other,
    ):
        for step in range(steps + 1):
            scale = np.abs(other.logits).max()
            assert np.abs(one.logits - other.logits).max() < 0.01 * scale, f"step {step}"
            if step < steps:
                tokens = rng.integers(2, 22, len(prompts))
                one.step(tokens)
                other.step(tokens)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "padded batch"])
def test_the_engine_says_what_onnx_runtime_says(out_of: OutOf, kind: str, prompts: list[list[int]]) -> None:
    """The past grows several times; a model with a window takes another code path."""
    engine = decoder_of(out_of, kind)
    compare(engine, OnnxDecoder(out_of(kind) / "onnx/model.onnx"), prompts, 30)
    device: Any = engine.device
    assert (device.recorded > 0) == (kind == "llama")
    assert device.replayed > 20 or kind == "mistral"


def test_buffers_and_graph_serve_the_next_text(out_of: OutOf) -> None:
    """The first text's contents do not show, nothing is allocated again, and known shapes record no graph."""
    engine, onnx = decoder_of(out_of), OnnxDecoder(out_of("llama") / "onnx/model.onnx")
    device: Any = engine.device
    compare(engine, onnx, PROMPTS, 20)
    held = device.held
    compare(engine, onnx, [prompt[::-1] for prompt in PROMPTS], 20)
    compare(engine, onnx, PROMPTS, 2)
    assert device.held == held
    recorded, replayed = device.recorded, device.replayed
    compare(engine, onnx, PROMPTS, 2)
    assert (device.recorded, device.replayed) == (recorded, replayed + 2)
    compare(engine, onnx, PROMPTS[:1], 40)  # another batch size, and a longer text
    assert device.held != held


def test_graphs_of_moved_buffers_are_dropped(out_of: OutOf) -> None:
    """The last text has as many slots as the recorded text before it, but its prompt needs more room."""
    engine, onnx = decoder_of(out_of), OnnxDecoder(out_of("llama") / "onnx/model.onnx")
    device: Any = engine.device
    for length, steps in ((3, 13), (3, 3)):
        compare(engine, onnx, [list(range(2, 2 + length))], steps)
    before = device.recorded, device.replayed
    assert min(before) > 0
    compare(engine, onnx, [list(range(2, 9))], 1)
    assert (device.recorded, device.replayed) == before


def test_the_last_token_that_a_profile_takes(out_of: OutOf) -> None:
    """The profile ends at a past of 64, so a text has 65 tokens, of which the last needs no step."""
    engine, onnx = decoder_of(out_of), OnnxDecoder(out_of("llama") / "onnx/model.onnx")
    assert engine.limits == Limits(4, 32, 65, "The engine's profile ends at")
    compare(engine, onnx, PROMPTS[:1], 65 - len(PROMPTS[0]) - 1)
    assert decoder_of(out_of, limits=Limits(total=20)).limits.total == 20


@pytest.mark.parametrize("half", ["engine", "onnx"])
def test_excess_is_refused_before_running(out_of: OutOf, half: str) -> None:
    """The error names the request and the limit, on an engine by its profiles and on ONNX Runtime alike."""
    whole = open_generator(out_of("llama"), runner="onnx")
    engine = decoder_of(out_of)
    device: Any = engine.device
    onnx = OnnxDecoder(out_of("llama") / "onnx/model.onnx", engine.limits)
    generator = Generator(engine if half == "engine" else onnx, whole.tokenizer)
    for prompts, new_tokens in (([[3] * 33], 1), ([[3], [4] * 33], 1), ([[3]] * 5, 1), ([[3] * 32], 34)):
        with refused():
            generator.generate(prompts, new_tokens=new_tokens)
    assert device.held == 0 and engine._engine.contexts == 0  # type: ignore[attr-defined]
    most = generator.generate([[3] * 32] * 4, new_tokens=33, ignore_end=True)
    assert [len(one.tokens) for one in most] == [33] * 4


def test_a_window_that_holds_everything_is_recorded_too(out_of: OutOf) -> None:
    engine = decoder_of(out_of)
    engine._window = 17
    assert engine.cache_for(1, 16).padded
    assert not engine.cache_for(1, 17).padded


def test_one_profile_for_both_phases(out_of: OutOf) -> None:
    both = {"batch": (1, 1, 4), "sequence": (1, 8, 32), "past": (0, 16, 64)}
    engine = decoder_of(out_of, profiles=[both])
    onnx = OnnxDecoder(out_of("llama") / "onnx/model.onnx")
    for prompts in (PROMPTS, PROMPTS[::-1]):  # the second run uses buffers and slots with a recorded step
        compare(engine, onnx, prompts, 20)
        compare(engine, onnx, prompts, 3)
    device: Any = engine.device
    assert device.replayed > 20


def test_failed_allocations_free_the_others(out_of: OutOf) -> None:
    engine = decoder_of(out_of)
    device: Any = engine.device
    allocate, left = device.allocate, iter(range(3))

    def scarce(nbytes: int) -> int:
        if next(left, None) is None:
            raise PatchCompileError("CUDA failed in cudaMalloc", "out of memory")
        return allocate(nbytes)

    device.allocate = scarce
    with refused():
        engine.start(*pad_left(PROMPTS), 8)
    gc.collect()
    assert device.held == 0
    device.allocate = allocate
    with closing(engine.start(*pad_left(PROMPTS), 8)):
        pass


@pytest.mark.parametrize(
    "profiles",
    [
        pytest.param([DECODE], id="decode"),
        pytest.param([PREFILL], id="prefill"),
    ],
)
def test_an_engine_without_a_phase_is_refused(out_of: OutOf, profiles: Any) -> None:
    with refused():
        decoder_of(out_of, profiles=profiles)


def test_one_text_at_a_time(out_of: OutOf) -> None:
    """A second text waits until the first is closed, also when the first failed to start."""
    engine = decoder_of(out_of)
    first = engine.start(*pad_left(PROMPTS), 4)
    started = threading.Event()

    def second() -> None:
        with closing(engine.start(*pad_left(PROMPTS), 4)):
            started.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    time.sleep(0.2)
    assert not started.is_set()
    first.close()
    first.close()
    assert started.wait(600)
    thread.join(600)
    with pytest.raises(AssertionError):
        engine.start(*pad_left([[3] * 40]), 4)  # beyond the profile, which `Limits.check` would refuse
    with closing(engine.start(*pad_left(PROMPTS), 4)):
        pass


def test_a_graph_that_cannot_be_recorded_is_said(
    out_of: OutOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = decoder_of(out_of)

    def fail(work: Any) -> Any:
        raise PatchCompileError("CUDA failed in cudaStreamEndCapture", "operation not permitted")

    monkeypatch.setattr(engine.device, "capture", fail)
    compare(engine, OnnxDecoder(out_of("llama") / "onnx/model.onnx"), PROMPTS, 12)
    assert "no CUDA graph: CUDA failed in cudaStreamEndCapture" in caplog.text
