"""Times a model's ONNX file in ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.bench import Phase
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.onnx_io.session import CPU
from patch_compile.timing.points import MakeFeed

__all__ = ["OnnxRunner"]

_NUMPY_OF = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OnnxRunner:
    """Times an ONNX file, see `timing.TimedModel`. Raises PatchCompileError if ONNX Runtime can't load the file.

    By default, the threads of a session spin after a run, and would take cores from the session that runs next. The
    runner switches this off.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        from patch_compile.onnx_io.session_limits import SILENT, LimitedSession

        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session: Any = LimitedSession(path, options, (CPU,))
        except Exception as error:  # onnxruntime raises a dozen unrelated classes of its own
            raise PatchCompileError(
                f"ONNX Runtime cannot load {path}",
                sentence(str(error).splitlines()[0]),
                "Build it again with the versions of this machine.",
            ) from error
        self._inputs = {one.name: one for one in self._session.get_inputs()}
        self._binding: Any = None

    def refuses(self, make: MakeFeed) -> str:  # noqa: ARG002
        """See `TimedModel`. ONNX Runtime takes any size of a dynamic dimension, but not every type."""
        kinds = {one.type for one in self._inputs.values()} - set(_NUMPY_OF)
        return f"ONNX Runtime's CPU kernels do not take {', '.join(sorted(kinds))}" if kinds else ""

    def prepare(self, make: MakeFeed, phase: Phase) -> None:  # noqa: ARG002
        """See `TimedModel`."""
        import onnxruntime as ort

        self._binding = self._session.io_binding()
        for name, array in make().items():
            typed: NDArray[Any] = np.ascontiguousarray(
                array.astype(_NUMPY_OF[self._inputs[name].type], copy=False)
            )
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(typed))
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name, "cpu")

    def run(self) -> float:
        """See `TimedModel`."""
        with self._session.limited() as limit:
            start = time.perf_counter()
            self._session.run_with_iobinding(self._binding, limit)
            return (time.perf_counter() - start) * 1e3

    def close(self) -> None:
        """See `TimedModel`."""
        self._binding = self._session = None
