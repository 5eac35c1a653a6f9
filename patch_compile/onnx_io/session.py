"""Opens ONNX models in ONNX Runtime and runs them on feeds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    from patch_compile.onnx_io.feeds import Feed

# `[ONNXRuntimeError] : 1 : FAIL : `, and `/onnxruntime_src/…/reshape_helper.h:91 onnxruntime::F::F(int, bool) `
_PLACES = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)( const)? "
)
GPU, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# ONNX Runtime 1.32 rounds the bias of an int8 product to integers, by way of fp16 numbers that overflow.
WRONG_OPTIMIZERS = ["WeightBiasQuantization"]


def open_session(
    path: Path,
    providers: tuple[str, ...] = (CPU,),
    threads: int | None = None,
    *,
    mapped: bool = False,
) -> Any:
    """Open an ONNX Runtime session with a time limit for each run. It logs nothing: its warnings concern constant folding.

    threads: number of threads of an operator on a CPU, None for one thread per core. Some operators, such as a ReduceMean
    over neither the first nor the last axis, round by their number. mapped: leave weights in the file, and convert
    them in each run; else the session holds its own copy in the types that it computes in.

    Raises PatchCompileError if the file can't be loaded.
    """
    import onnxruntime as ort

    from patch_compile.onnx_io.session_limits import SILENT, LimitedSession

    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    if mapped:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # others widen weights
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_mem_pattern = False  # a pattern of each shape of the inputs would be kept
    try:
        disabled = [*WRONG_OPTIMIZERS, *(["ConstantFolding"] if mapped else [])]
        return LimitedSession(path, options, providers, disabled)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes of its own
        fix = "Check the file: `patch-compile inspect` it."
        if "NOT_IMPLEMENTED" in str(error):
            fix = "Export the model at a newer opset, or upgrade it: onnx.version_converter.convert_version(model, 20)."
        raise PatchCompileError(f"ONNX Runtime cannot load {path}", _cause(error), fix) from error


def run_session(
    session: Any, path: Path, feed: Feed, outputs: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Returns the outputs of one run by name.

    path: of the session's model; outputs: names of the outputs to return, which may also be inputs of the graph; None means
    all outputs.

    Raises PatchCompileError if the model does not run on the feed.
    """
    types = {i.name: i.type for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()] if outputs is None else list(outputs)
    asked = [name for name in names if name not in feed]
    widened = {name: _widened(array, types[name]) for name, array in feed.items()}
    try:
        # ONNX Runtime takes an empty list to mean all outputs.
        made = dict(zip(asked, session.run(asked, widened), strict=True)) if asked else {}
    except PatchCompileError:
        raise
    except Exception as error:  # onnxruntime raises a dozen unrelated classes of its own
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
        raise PatchCompileError(
            f"ONNX Runtime cannot run {path.name} on the inputs",
            f"{_cause(error)} The inputs were {shapes}.",
            "Give inputs that the model takes with --calib, or other shapes with --opt-shapes.",
        ) from error
    return {name: feed[name] if name in feed else made[name] for name in names}


@contextmanager
def errors_of_runs(path: Path) -> Iterator[None]:
    """Raise an error of ONNX Runtime as a PatchCompileError that blames the model, since its inputs are known to be right.

    path: of the session's model.
    """
    try:
        yield
    except PatchCompileError:
        raise
    except Exception as error:  # onnxruntime raises a dozen unrelated classes of its own
        raise PatchCompileError(
            f"ONNX Runtime cannot run {path}",
            _cause(error),
            "The file is damaged or no decoder: `patch-compile inspect` it, or build it again.",
        ) from error


def _cause(error: Exception) -> str:
    """Returns the message of ONNX Runtime as a sentence, without its error codes and the places in its source code."""
    line = _PLACES.sub("", str(error).splitlines()[0]).strip()
    return line if line.endswith((".", "…")) else f"{line}."


def _widened(array: NDArray[Any], type_name: str) -> NDArray[Any]:
    """Converts a 16-bit array to fp32 (exact) if the model was converted to fp32; returns any other array unchanged."""
    narrow = array.dtype.name in ("float16", "bfloat16")
    return array.astype("float32") if narrow and type_name == "tensor(float)" else array
