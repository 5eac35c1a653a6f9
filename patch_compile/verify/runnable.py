"""ONNX files as ONNX Runtime's CPU provider runs them: it has no kernels for bf16 graphs.

Of those it gets a copy in fp32 that rounds to bf16 after every operation.
"""

from __future__ import annotations

from pathlib import Path

from patch_compile.onnx_io.emulate_bfloat16 import write_emulated
from patch_compile.passes.write import export_graph, write_dense
from patch_compile.sources.checkpoint.source import Job

__all__ = ["runnable_hybrid", "runnable_pair"]


def runnable_pair(job: Job, hybrid_path: Path, scratch: Path) -> tuple[Path, Path]:
    """The dense model, written to `scratch`, and the hybrid file, both as they can be run."""
    r = job.recipe
    graph = export_graph(r.model, dtype=r.dtype, opset=r.opset)
    dense_path = scratch / "dense.onnx"
    write_dense(graph, job.checkpoint, dense_path, r.dtype, emulate_bfloat16=r.dtype != "float16")
    return dense_path, runnable_hybrid(hybrid_path, r.dtype, scratch)


def runnable_hybrid(path: Path, dtype: str, scratch: Path) -> Path:
    """The file itself, or its copy in `scratch`."""
    if dtype == "float16":
        return path
    emulated = scratch / f"emulated.{path.stem.lstrip('.')}.onnx"
    write_emulated(path, emulated)
    return emulated
