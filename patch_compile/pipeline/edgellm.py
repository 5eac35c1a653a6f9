"""Writes the folder that TensorRT Edge-LLM builds engines from, with PatchLinear nodes.

Edge-LLM's own exporter writes the graph, in its own environment: it pins other versions of torch and transformers than
patch-compile uses. See https://nvidia.github.io/TensorRT-Edge-LLM for its folder: `llm/` holds model.onnx, the embedding,
config.json and the tokenizer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.base.printable import printable
from patch_compile.artifacts.layout import EDGELLM_ONNX, MASKS, MODEL, RECIPE
from patch_compile.errors import PatchCompileError
from patch_compile.pipeline.prepare import costs_of
from patch_compile.progress import Progress
from patch_compile.python_process import run_foreign_python
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.sources.base import Stage
from patch_compile.sources.open import open_graph
from patch_compile.sources.plan_task import PlanTask

if TYPE_CHECKING:
    from patch_compile.planning.lowering import LinearPlan

_TRIED = ("0.11.0",)
_PACKAGE = "tensorrt-edgellm"
_ASKS_VERSION = f"import importlib.metadata; print(importlib.metadata.version({_PACKAGE!r}))"
_EXPORTS = "from tensorrt_edgellm.scripts.export import main; main()"
# Settings of OUT that the exported graph decides, or that the masks of OUT have taken the place of.
_DECIDED = (
    *("opset", "logits", "dtype", "out"),
    *("ratio", "bytes_per_weight", "speedup", "permute", "weights"),
)
_SHOWN = 5  # last lines of a failed export
_PATIENCE = 120  # seconds; a Python that starts from a slow disk takes long to tell a version


@dataclass(frozen=True)
class EdgeLlmExporter:
    """An installed exporter. python: interpreter of its environment."""

    python: Path
    version: str

    @property
    def note(self) -> str:
        """Returns a warning about a version that was never tried, else ""."""
        if self.version in _TRIED:
            return ""
        return f"warning: {_PACKAGE} {self.version} was never tried with patch-compile; tried are {', '.join(_TRIED)}"

    def export(self, model: Path, folder: Path) -> None:
        """Write the ONNX folders of a checkpoint. Raises PatchCompileError with its last lines if the exporter fails."""
        done = run_foreign_python(self.python, _EXPORTS, str(model.resolve()), str(folder.resolve()))
        if done.returncode or not (folder / EDGELLM_ONNX).is_file():
            lines = printable(f"{done.stdout}\n{done.stderr}").strip().splitlines()[-_SHOWN:]
            raise PatchCompileError(
                f"Edge-LLM's exporter {self.version} wrote no {EDGELLM_ONNX} for {model}",
                f"It ended with code {done.returncode}. It said: {' | '.join(map(str.strip, lines)) or 'nothing'}.",
                f"Run it yourself to see all: {self.python.parent / f'{_PACKAGE}-export'} {model} FOLDER.",
            )


def find_exporter(python: Path | None, out: Path) -> EdgeLlmExporter:
    """Find the exporter in the environment of `python`, or of this process.

    out: OUT, for the commands that the error names. Raises PatchCompileError if it is not installed there.
    """
    asked = python or Path(sys.executable)
    try:
        done = run_foreign_python(asked, _ASKS_VERSION, seconds=_PATIENCE)
        why = "" if done.returncode == 0 else f"{asked} has no package {_PACKAGE}."
    except (OSError, subprocess.TimeoutExpired) as error:
        why = f"{asked} does not run as Python: {error}."
    if why:
        raise PatchCompileError(
            "TensorRT Edge-LLM's exporter is not installed",
            f"{why} It pins its own versions of torch and transformers, so it needs its own environment.",
            f"`python3 -m venv edgellm && edgellm/bin/pip install '{_PACKAGE}[export]'`, then give --for "
            f"edgellm=edgellm/bin/python. Or run the two steps elsewhere: `{_PACKAGE}-export {out / MODEL} EXPORTED`, and "
            f"`patch-compile compile {out / MODEL} --mask {out / MASKS} --graph EXPORTED/{EDGELLM_ONNX} -o COMPILED`.",
        )
    return EdgeLlmExporter(asked, done.stdout.strip())


def write_edgellm(
    out: Path, folder: Path, exporter: EdgeLlmExporter, progress: Progress
) -> dict[str, LinearPlan]:
    """Export OUT/model by Edge-LLM's exporter into `folder`, and put PatchLinear into the graph of its language model.

    All other files are the exporter's. OUT's recipe chooses the lowerings. Returns the plan of each linear.
    Raises PatchCompileError if the exporter fails, and if its graph holds none of the linears.
    """
    if exporter.note:
        progress.note(exporter.note)
    exported = folder / "exported"
    with progress.stage("Edge-LLM's export"):
        exporter.export(out / MODEL, exported)
    source = open_graph(_recipe(out, exported / EDGELLM_ONNX))
    source.check([Stage.ONNX])
    for line in source.notes:
        progress.note(line)
    masks, task = source.given.masks, PlanTask.of(source)
    plan = task.plan(masks, costs_of(task), task.weight_types(masks))
    compiled = source.write_hybrid(source.given.weights, masks, plan, folder / EDGELLM_ONNX, progress.stage)
    for file in [file for file in source.files if exported in file.parents]:
        file.unlink()
    shutil.copytree(exported, folder, copy_function=shutil.move, dirs_exist_ok=True)
    shutil.rmtree(exported)
    return compiled


def _recipe(out: Path, graph: Path) -> GraphRecipe:
    """Returns the settings of OUT for the graph that was exported from its pruned model."""
    settings = Recipe.load(out / RECIPE)
    undecided = {name: value for name, value in settings.items() if name not in _DECIDED}
    files = {"model": out / MODEL, "mask": out / MASKS, "graph": graph, "backend": "onnx"}
    return GraphRecipe.parse(undecided | files)
