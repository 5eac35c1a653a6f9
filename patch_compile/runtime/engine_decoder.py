"""Runs the engine of a decoder with TensorRT: static buffers, one profile per phase, and a CUDA graph for decode steps."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.engine.backend import numpy_of, sizes_of
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.tensor_names import INPUT_IDS, LOGITS, PAST, PRESENT, TOKEN_INPUTS
from patch_compile.runtime.decoder import Limits, Logits, Tokens, check_decoder, positions_of
from patch_compile.runtime.device import CudaDevice, Device
from patch_compile.runtime.kv_cache import KvCache, KvShape, slots_for

if TYPE_CHECKING:
    import tensorrt

    from patch_compile.engine.backend import Backend
    from patch_compile.runtime.engine_fit import HostCode

_LOG = logging.getLogger(__name__)


def open_engine(
    path: Path, backend: Backend, code: HostCode, limits: Limits, window: int | None
) -> EngineDecoder:
    """Load the engine of a decoder on this machine's GPU; see `load_engine`.

    window: length in tokens of the model's shortest sliding attention window, None if all its attention is full.
    """
    engine, runtime = load_engine(path, backend, code)
    name = f"{backend.name} {backend.version}"
    return EngineDecoder(engine, CudaDevice(), name, limits, window, runtime)


def load_engine(
    path: Path, backend: Backend, code: HostCode
) -> tuple[tensorrt.ICudaEngine, tensorrt.Runtime]:
    """Load an engine on this machine's GPU. Returns it and its runtime, which must live as long.

    backend: see `load_backend`; code: the compiled code that may run, see `host_code`.

    Raises PatchCompileError with TensorRT's message when the engine does not load.
    """
    from patch_compile.engine.plugin_library import load_plugin

    if code.plugin is not None:
        load_plugin(backend, code.plugin)
    errors: list[str] = []
    backend.logger.heard = lambda level, message: errors.append(message) if level >= logging.ERROR else None
    try:
        runtime = backend.trt.Runtime(backend.logger)
        runtime.engine_host_code_allowed = code.carried
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    finally:
        backend.logger.heard = None
    if engine is None:
        raise PatchCompileError(
            f"{backend.name} {backend.version} does not load {path}",
            "; ".join(dict.fromkeys(errors)) or "It logged no reason.",
            "Build it again for this GPU, this TensorRT and this plugin, or run its ONNX file: `runner` onnx.",
        )
    return engine, runtime


@dataclass(frozen=True)
class _Phase:
    """An optimization profile: its number, its largest batch, new tokens and past, and its least past."""

    profile: int
    batch: int
    tokens: int
    least_past: int
    past: int


class EngineDecoder:
    """A decoder engine with the inputs and outputs of `OnnxDecoder`.

    device: holds its buffers and runs it; limits, window: see `open_engine`; keep: object to hold as long as the engine.

    Raises PatchCompileError if the engine is not a decoder, or lacks a profile for prefill or decode.
    """

    def __init__(
        self,
        engine: tensorrt.ICudaEngine,
        device: Device,
        name: str,
        limits: Limits,
        window: int | None = None,
        keep: Any = None,
    ) -> None:
        self.name, self.device, self._engine, self._window, self._keep = name, device, engine, window, keep
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        past = [one for one in names if one.startswith(PAST)]
        check_decoder("The engine", names)
        self._types = {name: numpy_of(engine.get_tensor_dtype(name)) for name in (*TOKEN_INPUTS, LOGITS)}
        self._shapes = {name: _kv_shape(engine, name) for name in past}
        self._prefill, self._decode = _phases(engine, past[0])
        self.limits = _limits(limits, self._prefill, self._decode)
        self._contexts: dict[int, tensorrt.IExecutionContext] = {}
        self._buffers = _Buffers(device)
        self._cache: KvCache | None = None
        self._graph: tuple[tuple[int, int] | None, Callable[[], None] | None] = (None, None)
        self._busy = threading.Lock()

    def start(self, ids: Tokens, mask: Tokens, new_tokens: int) -> EngineDecoding:
        self._busy.acquire()
        try:
            return EngineDecoding(self, ids, mask, new_tokens)
        except BaseException:
            self._busy.release()
            raise

    def release(self) -> None:
        """Let the next `start` go on, after a decoding was closed."""
        self._busy.release()

    def cache_for(self, batch: int, tokens: int) -> KvCache:
        """Returns buffers for `batch` sequences of at most `tokens` tokens; reuses the last buffers if they fit."""
        # A window longer than all slots contains every token, in whichever slot it lies.
        padded = self._window is None or slots_for(tokens) < self._window
        if not padded and self._decode.least_past > 1:
            raise PatchCompileError(
                f"The engine wants a past of {self._decode.least_past} tokens at least",
                "Its profile says so, and a model with a sliding window can't be given an empty past.",
                "Build with `min_shapes` past=1,…",
            )
        old = self._cache
        if old is not None and (old.batch, old.padded) == (batch, padded) and old.capacity >= tokens:
            return old
        if old is not None:
            old.close()  # before the new cache is allocated: a large cache may not fit twice
        self._cache, self._graph = None, (None, None)
        d = self._decode
        self._cache = KvCache(
            self.device, self._shapes, batch, tokens, least=d.least_past, most=d.past, padded=padded
        )
        return self._cache

    def prefill(self, cache: KvCache, ids: Tokens, mask: Tokens) -> Logits:
        """Read prompts into the cache. Returns the logits `[batch, vocabulary]` of their last tokens."""
        context = self._context(self._prefill.profile)
        if self._prefill.profile == self._decode.profile:
            self._graph = (None, None)  # new shapes of its context make a graph invalid
        self._write(ids, mask)
        self._bind(context, ids.shape, mask.shape, cache, past=0)
        self._execute(context)
        logits = self._read_logits(context)
        cache.take_prompt(mask)
        return logits

    def continue_by(self, cache: KvCache, tokens: Tokens) -> Logits:
        """Append a token `[batch]` to each sequence. Returns the logits `[batch, vocabulary]` of the next token."""
        cache.make_room()
        context = self._context(self._decode.profile)
        mask = np.concatenate([cache.mask, np.ones((len(tokens), 1), np.int64)], axis=1)
        self._write(tokens[:, None], mask)
        if cache.padded and self._graph[0] == (cache.slots, self._buffers.generation):
            self._replay(context)
        else:
            self._bind(context, (len(tokens), 1), mask.shape, cache, past=cache.slots)
            self._execute(context)
            self._graph = ((cache.slots, self._buffers.generation) if cache.padded else None, None)
        logits = self._read_logits(context)
        cache.take_token()
        return logits

    def _context(self, profile: int) -> tensorrt.IExecutionContext:
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(profile, self.device.stream):
                raise PatchCompileError(
                    "The engine has no memory to run in",
                    "TensorRT's log above has the reason.",
                    "Free memory of the GPU, or build with smaller `max_shapes`.",
                )
            self._contexts[profile] = context
        return self._contexts[profile]

    def _write(self, ids: Tokens, mask: Tokens) -> None:
        """Copy ids, mask and positions of one step into their buffers."""
        for name, array in zip(TOKEN_INPUTS, (ids, mask, positions_of(mask, ids.shape[1])), strict=True):
            array = array.astype(self._types[name])
            self.device.write(self._buffers.of(name, array.nbytes), array)

    def _bind(
        self,
        context: tensorrt.IExecutionContext,
        ids: tuple[int, ...],
        mask: tuple[int, ...],
        cache: KvCache,
        past: int,
    ) -> None:
        """Set shapes and addresses of a step, and of the later steps that replay it."""
        for name, shape in zip(TOKEN_INPUTS, (ids, mask, ids), strict=True):
            context.set_input_shape(name, shape)
            context.set_tensor_address(name, self._buffers.of(name, 0))
        for name, kv in self._shapes.items():
            context.set_input_shape(name, (cache.batch, kv.heads, past, kv.size))
            context.set_tensor_address(name, cache.past[name])
            context.set_tensor_address(name.replace(PAST, PRESENT), cache.present[name])
        size = math.prod(sizes_of(context.get_tensor_shape(LOGITS))) * self._types[LOGITS].itemsize
        context.set_tensor_address(LOGITS, self._buffers.of(LOGITS, size))

    def _execute(self, context: tensorrt.IExecutionContext) -> None:
        if not context.execute_async_v3(self.device.stream):
            raise PatchCompileError(
                "The engine failed to run",
                "TensorRT's log above has the reason.",
                "Run its ONNX file instead: `runner` onnx.",
            )

    def _replay(self, context: tensorrt.IExecutionContext) -> None:
        """Run a step of the same shape as the last step, as a CUDA graph.

        The first step of a shape runs without a graph, because TensorRT requires one run before a capture. The second
        records the graph. The graph's key is the number of slots and the generation of the buffers. That is enough: the
        two buffer sets of the cache change places only when the number of slots grows, and a new cache drops the graph.
        """
        key, graph = self._graph
        if graph is None:
            try:
                graph = self.device.capture(partial(self._execute, context))
            except PatchCompileError as error:
                _LOG.warning("no CUDA graph: %s (%s)", error.what, error.why)
                graph = partial(self._execute, context)
            self._graph = (key, graph)
        graph()

    def _read_logits(self, context: tensorrt.IExecutionContext) -> Logits:
        batch, sequence, vocabulary = sizes_of(context.get_tensor_shape(LOGITS))
        logits: NDArray[Any] = np.empty((batch, vocabulary), self._types[LOGITS])
        row = vocabulary * logits.itemsize
        address = self._buffers.of(LOGITS, 0) + (sequence - 1) * row
        self.device.read((address, sequence * row), logits)
        return logits.astype(np.float32)


class EngineDecoding:
    """A batch that is being continued on the engine. Only one exists at a time."""

    def __init__(self, decoder: EngineDecoder, ids: Tokens, mask: Tokens, new_tokens: int) -> None:
        self._decoder = decoder
        self._open = True
        self._cache = decoder.cache_for(len(ids), ids.shape[1] + new_tokens)
        self.logits = decoder.prefill(self._cache, ids, mask)

    def step(self, tokens: Tokens) -> None:
        self.logits = self._decoder.continue_by(self._cache, tokens)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._decoder.release()


class _Buffers:
    """Device buffers by name, which grow on demand. `generation` counts the allocations: each changes an address."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: dict[str, tuple[int, int]] = {}
        self.generation = 0

    def of(self, name: str, nbytes: int) -> int:
        """Returns the address of a buffer of at least `nbytes` bytes."""
        address, size = self._held.get(name, (0, -1))
        if size < nbytes:
            if size >= 0:
                self._device.free(address)
            address = self._device.allocate(nbytes)
            self._held[name] = address, nbytes
            self.generation += 1
        return address


def _phases(engine: tensorrt.ICudaEngine, past: str) -> tuple[_Phase, _Phase]:
    """Returns the profiles for prefill and for decode: the profile for the longest prompt and for the longest past.

    past: name of one past tensor. Raises PatchCompileError if a profile is missing.
    """
    phases = []
    for profile in range(engine.num_optimization_profiles):
        least, _, most = engine.get_tensor_profile_shape(INPUT_IDS, profile)
        least_past, _, most_past = engine.get_tensor_profile_shape(past, profile)
        if least[0] == 1:
            phases.append((_Phase(profile, most[0], most[1], least_past[2], most_past[2]), least[1]))
    prefill = max((p for p, _ in phases if p.least_past == 0), key=lambda p: p.tokens, default=None)
    decode = max((p for p, least in phases if least == 1 and p.past > 0), key=lambda p: p.past, default=None)
    if prefill is None or decode is None:
        what = (
            "begin a text with: a past of 0" if prefill is None else "continue a text with: a sequence of 1"
        )
        raise PatchCompileError(
            f"The engine has no profile to {what}",
            "Its profiles were given with `min_shapes`, `opt_shapes` and `max_shapes`.",
            "Build without them: the defaults have a profile for prompts and a profile for the tokens after them.",
        )
    return prefill, replace(decode, least_past=max(1, decode.least_past))


def _limits(model: Limits, prefill: _Phase, decode: _Phase) -> Limits:
    total = decode.past + 1
    if model.total is not None and model.total <= total:
        total, why = model.total, model.total_why
    else:
        why = "The engine's profile ends at"
    return Limits(min(prefill.batch, decode.batch), prefill.tokens, total, why)


def _kv_shape(engine: tensorrt.ICudaEngine, name: str) -> KvShape:
    _, heads, _, size = sizes_of(engine.get_tensor_shape(name))
    return KvShape(heads, size, numpy_of(engine.get_tensor_dtype(name)).itemsize)
