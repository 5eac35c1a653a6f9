"""Reduces a build to one linear: its part of the hybrid graph, the same part with dense weights, and the inputs it had.

Both parts have the same inputs and outputs: tensors that the hybrid graph shares with its dense reference (see
`first_difference`). So a linear that a node computes with others, such as q with k and v, comes with them.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masklearn.base.durable import whole_file
from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.command_results import ReducedLinear
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MANIFEST, MASKS, ONNX, PLAN
from patch_compile.artifacts.place import no_build, partial_of
from patch_compile.artifacts.plan import LinearRow, Plan
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.onnx_io.session import WRONG_OPTIMIZERS, open_session, run_session
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.open import check_unchanged, open_source
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verification.first_difference import error_of, tensors_of, write_dense_reference

if TYPE_CHECKING:
    import onnx

_RUN = (
    "import numpy, onnxruntime; print(onnxruntime.InferenceSession({!r}, disabled_optimizers="
    f"{WRONG_OPTIMIZERS}"
    ").run(None, dict(numpy.load({!r}))))"
)


def reduce_linear(out: Path, linear: str, folder: Path) -> ReducedLinear:
    """Write `hybrid.onnx`, `dense.onnx`, `inputs.npz` and `outputs.npz` of one linear to the new folder `folder`.

    out: OUT, or what a failed build left of it. Inputs and outputs of the linear come from a run of the hybrid graph on
    inputs of the proof. Files of a bfloat16 build are float32 copies that round like it, which ONNX Runtime can run.

    Raises PatchCompileError if the build has no such linear, or computes it as an ordinary dense GEMM.
    """
    if not (out / ONNX).is_file() and (partial_of(out) / ONNX).is_file():
        out = partial_of(out)
    row = _row(out, linear)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PatchCompileError(
            f"{folder} is not empty", "The files of the linear go there.", "Give another --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    progress, source = Progress(), open_source(Recipe.of_build(out))
    if (out / MANIFEST).is_file():
        check_unchanged(source, OutFolder.open(out))
    with tempfile.TemporaryDirectory() as folder_name:
        scratch = Path(folder_name)
        hybrid, reference = runnable_onnx(out / ONNX, scratch), scratch / "reference.onnx"
        with progress.stage("dense reference"):
            write_dense_reference(source, out, MaskSet.load(out / MASKS), reference)
            dense = runnable_onnx(reference, scratch)
        part = _Part.around(row, load_proto(out / ONNX).graph, load_proto(dense).graph)
        feed = source.proof_feed(hybrid, progress)
        with progress.stage("hybrid on ONNX Runtime"):
            names = [*part.inputs, *part.outputs]
            recorded = dict(zip(names, tensors_of(hybrid, names, feed), strict=True))
        inputs = {name: recorded[name] for name in part.inputs}
        made = {}
        for name, path in (("hybrid", hybrid), ("dense", dense)):
            part.write(path, folder / f"{name}.onnx")
            made[name] = run_session(open_session(folder / f"{name}.onnx"), folder / f"{name}.onnx", inputs)
    _save(folder / "inputs.npz", inputs)
    _save(folder / "outputs.npz", {name: recorded[name] for name in part.outputs})
    error = max(error_of(made["hybrid"][name], made["dense"][name]) for name in part.outputs)
    tolerance = rounding_tolerance(source.recipe.dtype, 1).share
    files = (str((folder / name).absolute()) for name in ("hybrid.onnx", "inputs.npz"))
    return ReducedLinear(
        path=str(folder),
        linear=linear,
        lowering=row.lowering,
        linears=row.node.linears if row.node else (linear,),
        inputs={name: array.shape for name, array in inputs.items()},
        outputs={name: recorded[name].shape for name in part.outputs},
        error=error if np.isfinite(error) else None,
        tolerance=tolerance,
        passed=error <= tolerance,
        command=shlex.join(["python", "-c", _RUN.format(*files)]),
    )


def _row(out: Path, linear: str) -> LinearRow:
    plan = Plan.of(out)
    if plan is None or not (out / ONNX).is_file():
        raise no_build(out, f"It holds no {ONNX} or no {PLAN}.")
    packed = ", ".join(plan.packed[:3]) or "none"
    for row in plan.linears:
        if row.name == linear and row.lowering != "dense":
            return row
    there = any(row.name == linear for row in plan.linears)
    raise PatchCompileError(
        f"{linear} is compiled as an ordinary dense GEMM" if there else f"{out} has no linear {linear}",
        f"Linears that can be reduced: {packed}{', …' if len(plan.packed) > 3 else ''}.",
        f"Give --linear a name in {PLAN} whose lowering is plugin or split.",
    )


@dataclass(frozen=True)
class _Part:
    """Names of the tensors between which a part of a graph lies."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def around(cls, row: LinearRow, hybrid: onnx.GraphProto, reference: onnx.GraphProto) -> _Part:
        """Returns the smallest part that holds a linear's nodes and begins and ends with tensors of both graphs."""
        shared = {name for node in reference.node for name in node.output} | {
            value.name for value in reference.input
        }
        constants = {tensor.name for tensor in hybrid.initializer} | {""}
        ends = {output.name for output in hybrid.output}
        nodes = [node for node in hybrid.node if _computes(node, row)]
        assert nodes, "the plan is of this graph"
        while True:
            made = [name for node in nodes for name in node.output]
            read = dict.fromkeys(name for node in nodes for name in node.input)
            inputs = [name for name in read if name not in constants and name not in made]
            others = [node for node in hybrid.node if node not in nodes]
            wanted = {name for node in others for name in node.input} | ends
            outputs = [name for name in made if name in wanted]
            grown = [
                node
                for node in others
                if set(node.output) & (set(inputs) - shared) or set(node.input) & (set(outputs) - shared)
            ]
            if not grown:
                return cls(tuple(inputs), tuple(outputs))
            nodes += grown

    def write(self, path: Path, target: Path) -> None:
        """Write the part of the graph at `path` as its own model, with its weights."""
        import onnx_ir as ir

        from patch_compile.onnx_io.external import map_external_data
        from patch_compile.onnx_io.proto import load_proto, model_of
        from patch_compile.onnx_io.write import write_onnx

        whole = model_of(path, load_proto(path))
        map_external_data(path, whole)
        graph = ir.convenience.extract(whole.graph, self.inputs, self.outputs)
        write_onnx(
            ir.Model(graph, ir_version=whole.ir_version, functions=[*whole.functions.values()]), target
        )


def _computes(node: onnx.NodeProto, row: LinearRow) -> bool:
    if row.lowering == "split":
        return str(node.name).startswith(f"{row.name}/split/")
    return row.node is not None and (node.op_type, node.name) == ("PatchLinear", row.node.name)


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)
