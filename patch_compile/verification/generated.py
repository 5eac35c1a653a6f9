"""Compares the texts that dense and hybrid model write after the user's prompts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from masklearn.base.durable import temporary_name
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MASKS, MODEL, ONNX, ONNX_FOLDER, ONNX_NAME
from patch_compile.artifacts.verify_schema import GeneratedText
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.sources.kinds import Capability
from patch_compile.sources.open import source_of

if TYPE_CHECKING:
    from patch_compile.runtime.generator import Completion, Generator

Update = Callable[[str, int, int], object]


def generated_diff(
    out: OutFolder, prompts: Sequence[str], new_tokens: int, progress: Update
) -> tuple[GeneratedText, ...]:
    """Continue each prompt with both models, greedily.

    Both models are ONNX files of the same type in ONNX Runtime, so that differences come from pruning and not from
    arithmetic. `same_tokens` counts a token that ends the text. Each prompt is its own batch, and one model is in memory
    at a time.

    Raises PatchCompileError if the model cannot continue text, without a prompt or an ONNX file, and if a prompt is empty
    or longer than the model's positions.
    """
    check_continues_text(out)
    if not prompts:
        raise PatchCompileError("There is nothing to continue", "No prompt is given.", "Give --prompt TEXT.")
    if not (out.path / ONNX).is_file():
        raise PatchCompileError(
            f"{out.path} holds no {ONNX}",
            "`learn` writes only masks and the pruned checkpoint.",
            f"Build with it: `patch-compile build {Recipe.of_build(out.path).model} --mask {out.path / MASKS}`.",
        )
    pruned = _continue("hybrid", out.path / ONNX, out.path / MODEL, prompts, new_tokens, progress)
    progress("dense: export", 0, len(prompts))
    with dense_onnx(out, logits="last") as path:
        dense = _continue("dense", path, Recipe.of_build(out.path).model, prompts, new_tokens, progress)
    return tuple(_compared(*one) for one in zip(prompts, dense, pruned, strict=True))


def _continue(
    name: str, path: Path, model: Path, prompts: Sequence[str], new_tokens: int, progress: Update
) -> list[Completion]:
    from patch_compile.engine.backend import Runner
    from patch_compile.runtime.locate import open_generator
    from patch_compile.runtime.sampling import Sampling

    generator = open_generator(path, runner=Runner.ONNX, tokenizer=model)
    _check_room(generator, prompts, new_tokens)
    found = []
    for done, prompt in enumerate(prompts):
        progress(f"{name}: {prompt}", done, len(prompts))
        found += generator.generate([prompt], Sampling(), new_tokens=new_tokens)
    return found


def _check_room(generator: Generator, prompts: Sequence[str], new_tokens: int) -> None:
    """Check the length of all prompts before the first prompt is continued."""
    for prompt in prompts:
        generator.decoder.limits.check(1, len(generator.encode(prompt)), new_tokens)


def _compared(prompt: str, dense: Completion, pruned: Completion) -> GeneratedText:
    pairs = list(zip(dense.tokens, pruned.tokens, strict=False))
    parted = (place for place, (one, other) in enumerate(pairs) if one != other)
    return GeneratedText(
        prompt=prompt,
        dense=dense.text,
        pruned=pruned.text,
        same_tokens=next(parted, len(pairs)),
        tokens=max(len(dense.tokens), len(pruned.tokens)),
    )


def check_continues_text(out: OutFolder) -> None:
    """Raise PatchCompileError for a build whose model predicts no next tokens or has no tokenizer."""
    if why := source_of(out).why_not(Capability.NEXT_TOKENS):
        raise PatchCompileError(f"{out.path} can't continue text", why, "Leave out --tasks and --prompt.")


@contextmanager
def dense_onnx(out: OutFolder, logits: Literal["all", "last"]) -> Iterator[Path]:
    """Yield a file in OUT, with the type and opset of the build, that is removed at the end.

    logits: the positions that get logits. Raises PatchCompileError if the model was moved or deleted.
    """
    folder = out.path / temporary_name(ONNX_FOLDER)
    folder.mkdir()
    try:
        yield source_of(out).dense_onnx(folder / ONNX_NAME, logits=logits)
    finally:
        shutil.rmtree(folder)
