"""References that prove a compiled checkpoint: held-out text as windows of tokens, and the pruned model with the weights
that the compiled graph computes with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masklearn import first_windows, open_text, write_text
from masklearn.base.progress import unsaid
from masklearn.model.architectures import longest_window
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import from_stored, linear_name
from masklearn.model.pretrained import load_config
from masklearn.quant.table import INT8, W8A8
from patch_compile.artifacts.manifest import EvalText
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.pruning import grids_of_pruned

_EVAL_SEED_OFFSET = 1  # text of the unchanged seed may be the calibration text


def evaluation_windows(r: Recipe, tokenizer: Any, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:
    """Returns windows `[eval_windows, eval_length]`, and name and path of their text.

    The windows are shorter if the model has fewer learned positions.
    """
    length = _reachable_length(r, progress.note)
    if r.eval_text is not None:
        return _windows_of(r.eval_text, r, tokenizer, length)
    progress.note(
        "evaluation text: the model writes its own (no --eval given); its perplexity differs from that on real text"
    )
    with progress.stage("evaluation text") as update:
        windows = write_text(r.model, r.eval_windows, length, r.seed + _EVAL_SEED_OFFSET, update)
    return windows, EvalText(name="text that the model wrote", path=None)


def check_evaluation(text: str, r: Recipe, tokenizer: Any) -> None:
    """Raise MaskLearnError for held-out text that does not fill its windows. It is read only after hours of learning."""
    _windows_of(text, r, tokenizer, _reachable_length(r, unsaid))


def _windows_of(text: str, r: Recipe, tokenizer: Any, length: int) -> tuple[NDArray[np.int64], EvalText]:
    source = open_text(text)
    windows = first_windows(tokenizer, text, length, r.eval_windows)
    return windows, EvalText(name=source.name, path=source.spec)


def _reachable_length(r: Recipe, note: Callable[[str], object]) -> int:
    """Returns eval_length, or the number of learned positions if that is smaller."""
    checkpoint = Checkpoint.open(r.model)
    longest = longest_window(checkpoint.architecture, load_config(checkpoint.path))
    if longest is None or r.eval_length <= longest:
        return r.eval_length
    note(f"evaluation text: windows of {longest} tokens, as far as the positions of the model reach")
    return longest


def load_as_compiled(
    pruned: Path,
    dtype: Literal["float16", "bfloat16"],
    masks: Path | None,
    *,
    sixteen_bits: bool = False,
    streamed: bool = False,
) -> Any:
    """Returns the model of transformers with weights as in a graph of this type, and arithmetic in fp32 or in the type.

    Weights are rounded to the type, except int8 weights, which a graph multiplies as they are and scales afterwards. The
    checkpoint holds quantised weights rounded to its own type, which may be coarser: they are computed anew from their
    integers. masks: the file with their scales, read if there is none next to the pruned model; None if there is no such
    file. streamed: True for a model that reads its weights in each run, see `streamed_model`.
    """
    import onnx_ir as ir
    import torch

    from masklearn.model.linears import linear_weights, read_tensor
    from masklearn.model.models import load_model
    from masklearn.model.streamed import streamed_model
    from patch_compile.onnx_io.write import read_weight

    narrow, sixteen_bit = getattr(torch, dtype), ir.DataType[dtype.upper()].numpy()
    checkpoint, grids = Checkpoint.open(pruned), grids_of_pruned(pruned, masks)

    def of_grid(linear: str) -> torch.Tensor:
        grid, stored = grids[linear], read_weight(checkpoint, f"{linear}.weight", None)
        rounded = np.dtype(np.float32) if grid.type in (INT8, W8A8) else sixteen_bit
        return torch.from_numpy(grid.values(grid.integers(stored), rounded).astype(np.float32))

    def read(name: str, shape: torch.Size) -> Any:
        linear = name.removesuffix(".weight")
        if linear in grids:
            return of_grid(linear)
        if checkpoint.dtype(name) == sixteen_bit:  # needs no rounding
            return from_stored(checkpoint, name, checkpoint.torch(name, mapped=True))
        return read_tensor(checkpoint, name, shape).to(narrow)

    if streamed:
        return streamed_model(checkpoint, read, narrow if sixteen_bits else torch.float32)
    model = load_model(pruned, dtype=narrow)
    model = model if sixteen_bits else model.float()
    if grids:
        weights = {linear_name(checkpoint, name): weight for name, weight in linear_weights(model).items()}
        for name in grids:
            weights[name].copy_(of_grid(name))
    return model
