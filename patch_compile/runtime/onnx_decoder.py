"""Runs the ONNX file of a decoder with ONNX Runtime, on CUDA if the installed build supports it, else on the CPU.

A bfloat16 file runs as a float32 copy that rounds like bfloat16.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.runnable import holds_bfloat16, runnable_onnx
from patch_compile.onnx_io.session import CPU, GPU, errors_of_runs, open_session
from patch_compile.onnx_io.tensor_names import LOGITS, PAST, PRESENT, TOKEN_INPUTS
from patch_compile.runtime.decoder import Limits, Logits, Tokens, check_decoder, positions_of

Cache = dict[str, Any]
_NUMPY_OF = {"tensor(float16)": np.float16, "tensor(float)": np.float32}

_NOTE = "bfloat16, for which it has no kernels: computed in float32 and rounded after every operation"


def open_onnx(path: Path, limits: Limits) -> tuple[OnnxDecoder, str]:
    """Returns the decoder of an ONNX file and a note for the user, empty for most files.

    ONNX Runtime has no bfloat16 kernels. A bfloat16 file runs as a float32 copy that rounds like bfloat16. The copy is
    written to the folder of temporary files and deleted once it is loaded.

    Raises PatchCompileError when the file can't be run, or when the copy can't be made for want of space or of onnx-ir.
    """
    if not holds_bfloat16(path):
        return OnnxDecoder(path, limits, gpu=True), ""
    try:
        with tempfile.TemporaryDirectory(prefix="patch-compile-") as folder:
            return OnnxDecoder(runnable_onnx(path, Path(folder)), limits, gpu=True), _NOTE
    except OSError as error:
        raise PatchCompileError(
            f"The copy of {path} that ONNX Runtime runs cannot be written",
            f"{error.strerror or error}: {error.filename or tempfile.gettempdir()}",
            "Name a folder with room for twice the file in TMPDIR.",
        ) from None


class OnnxDecoder:
    """An ONNX file of a decoder with inputs `input_ids`, `attention_mask`, `position_ids` and `past_key_values.*`.

    Raises PatchCompileError if the file can't be loaded or is not such a decoder.
    """

    def __init__(
        self, path: Path, limits: Limits | None = None, *, gpu: bool = False, mapped: bool = False
    ) -> None:
        """mapped: see `open_session`."""
        import onnxruntime as ort

        self.limits = limits or Limits()
        on_gpu = gpu and GPU in ort.get_available_providers()
        self.path = path
        self.session = open_session(path, (GPU, CPU) if on_gpu else (CPU,), mapped=mapped)
        # ONNX Runtime silently leaves out a provider that can't start, for example without a driver.
        self.device = "cuda" if GPU in self.session.get_providers() else "cpu"
        self.name = f"ONNX Runtime {ort.__version__} on {'CUDA' if self.device == 'cuda' else 'the CPU'}"
        self._inputs = {i.name: i for i in self.session.get_inputs()}
        # A graph may have other outputs, such as the choices of its routers.
        made = (o.name for o in self.session.get_outputs())
        self.outputs = [name for name in made if name == LOGITS or name.startswith(PRESENT)]
        check_decoder(str(path), {*self._inputs, *self.outputs})
        _check_types(path, self._inputs)

    def empty_cache(self, batch: int) -> Cache:
        """Returns a cache without tokens: `[batch, heads, 0, head_dim]` per tensor."""
        return {
            name: np.zeros((batch, i.shape[1], 0, i.shape[3]), _NUMPY_OF[i.type])
            for name, i in self._inputs.items()
            if name.startswith(PAST)
        }

    def feed(self, ids: Tokens, cache: Cache, mask: Tokens | None = None) -> Cache:
        """Returns the inputs of one call. ids: `[batch, sequence]`; mask: `[batch, past + sequence]`, 0 = padding."""
        if mask is None:
            past = next(iter(cache.values())).shape[2] if cache else 0
            mask = np.ones((ids.shape[0], past + ids.shape[1]), np.int64)
        inputs = (ids, mask, positions_of(mask, ids.shape[1]))
        return {**dict(zip(TOKEN_INPUTS, inputs, strict=True)), **cache}

    def step(self, ids: Tokens, cache: Cache, mask: Tokens | None = None) -> tuple[Logits, Cache]:
        """Returns the logits, fp32 `[batch, sequence, vocabulary]`, and the cache with the new tokens."""
        with errors_of_runs(self.path):
            made = self.session.run(self.outputs, self.feed(ids, cache, mask))
        out = dict(zip(self.outputs, made, strict=True))
        logits = out.pop(LOGITS).astype(np.float32)
        return logits, {name.replace(PRESENT, PAST): value for name, value in out.items()}

    def start(self, ids: Tokens, mask: Tokens, new_tokens: int) -> OnnxDecoding:  # noqa: ARG002
        """See `Decoder`. The cache grows with each step, so `new_tokens` is not used."""
        return OnnxDecoding(self, ids, mask)


class OnnxDecoding:
    """A batch that is being continued. Its cache stays on the device of the session."""

    def __init__(self, decoder: OnnxDecoder, ids: Tokens, mask: Tokens) -> None:
        self._decoder = decoder
        self._mask = mask
        self._cache: Cache = decoder.empty_cache(len(ids))
        self.logits = self._run(ids)

    def step(self, tokens: Tokens) -> None:
        self._mask = np.concatenate([self._mask, np.ones((len(tokens), 1), np.int64)], axis=1)
        self.logits = self._run(tokens[:, None])

    def close(self) -> None:
        self._cache = {}

    def _run(self, ids: Tokens) -> Logits:
        with errors_of_runs(self._decoder.path):
            binding = self._decoder.session.io_binding()
            for name, value in self._decoder.feed(ids, self._cache, self._mask).items():
                if isinstance(value, np.ndarray):
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
                else:  # an output of the last step, on the session's device
                    binding.bind_ortvalue_input(name, value)
            for name in self._decoder.outputs:
                binding.bind_output(name, "cpu" if name == LOGITS else self._decoder.device)
            self._decoder.session.run_with_iobinding(binding)
        made = dict(zip(self._decoder.outputs, binding.get_outputs(), strict=True))
        logits: NDArray[Any] = made.pop(LOGITS).numpy()
        self._cache = {name.replace(PRESENT, PAST): value for name, value in made.items()}
        return logits[:, -1].astype(np.float32)


def _check_types(path: Path, inputs: dict[str, Any]) -> None:
    past = [name for name in inputs if name.startswith(PAST)]
    unknown = {inputs[name].type for name in past} - set(_NUMPY_OF)
    if unknown:
        raise PatchCompileError(
            f"ONNX Runtime's CPU kernels can't run {path}",
            f"Its cache is {', '.join(sorted(unknown))}.",
            "Build with `dtype` float16 to run it here, or run its engine on a GPU.",
        )
