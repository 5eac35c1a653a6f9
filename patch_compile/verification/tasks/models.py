"""Opens the two models of a build for lm-evaluation-harness, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MODEL, ONNX
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.verification.all_logits import with_all_logits
from patch_compile.verification.generated import dense_onnx

__all__ = ["Backend", "Side", "open_model"]

Backend = Literal["hf", "onnx"]
Side = Literal["dense", "pruned"]
Update = Callable[[str, int, int], object]


@contextmanager
def open_model(out: OutFolder, side: Side, backend: Backend, seed: int, update: Update) -> Iterator[Any]:
    """Yield the harness's LM of the dense or the pruned model of a build.

    Raises PatchCompileError if the model cannot be found or run.
    """
    if backend == "hf":
        from patch_compile.verification.tasks.hf_lm import HuggingFaceLM

        recipe = Recipe.of_build(out.path)
        yield HuggingFaceLM(_folder(out, side), recipe.dtype, recipe.device, update)
        return
    with _onnx_file(out, side) as path:
        yield _open_onnx(path, _folder(out, side), seed, update)


def _open_onnx(path: Path, folder: Path, seed: int, update: Update) -> Any:
    from lm_eval.models.utils import resolve_max_length

    from masklearn.model.pretrained import load_config
    from patch_compile.runtime.locate import Runner, open_generator
    from patch_compile.verification.tasks.onnx_lm import OnnxLM

    generator = open_generator(path, runner=Runner.ONNX, tokenizer=folder)
    length = resolve_max_length(load_config(folder), generator.tokenizer)
    return OnnxLM(generator, length, seed, update)


def _onnx_file(out: OutFolder, side: Side) -> AbstractContextManager[Path]:
    """Returns the ONNX file with logits of all positions."""
    if side == "dense":
        return dense_onnx(out, logits="all")
    if not (out.path / ONNX).is_file():
        raise PatchCompileError(
            f"{out.path} holds no {ONNX}",
            "`learn` writes masks and the pruned checkpoint alone.",
            "Ask the checkpoint with --task-backend hf.",
        )
    return with_all_logits(out.path / ONNX)


def _folder(out: OutFolder, side: Side) -> Path:
    return Recipe.of_build(out.path).model if side == "dense" else out.path / MODEL
