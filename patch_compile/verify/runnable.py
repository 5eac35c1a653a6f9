"""The dense and the hybrid model as ONNX Runtime on this machine can run them."""

from __future__ import annotations

from pathlib import Path

from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.passes.write import export_graph, write_dense
from patch_compile.sources.checkpoint.source import Job

__all__ = ["runnable_pair"]


def runnable_pair(job: Job, hybrid_path: Path, scratch: Path) -> tuple[Path, Path]:
    """The dense model, written to `scratch`, and the hybrid file, both as they can be run."""
    r = job.recipe
    graph = export_graph(r.model, dtype=r.dtype, opset=r.opset)
    dense_path = scratch / "dense.onnx"
    write_dense(graph, job.checkpoint, dense_path, r.dtype, runnable=True)
    return dense_path, runnable_onnx(hybrid_path, scratch)
