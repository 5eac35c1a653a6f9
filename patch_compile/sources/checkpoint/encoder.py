"""Encoders as sources. They predict no next token, and are therefore compared by their hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from masklearn.model.folder import read_json_object
from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.proof import TextWindows, ToleranceOrigin
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.compare import Outputs, output_file, save_array, worst_error
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.graph_inputs import read_inputs
from patch_compile.onnx_io.tensor_names import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS
from patch_compile.progress import Progress
from patch_compile.sources.base import OutputSource, Probe
from patch_compile.sources.checkpoint.references import evaluation_windows, load_as_compiled
from patch_compile.sources.checkpoint.source import CheckpointSource
from patch_compile.sources.pruning import grids_of_pruned
from patch_compile.sources.rounding import Rounding, roundings_of

_POOLING = "1_Pooling/config.json"  # of sentence-transformers
_ROWS = 2  # windows in a feed; the second half of the last window is padding


class EncoderSource(CheckpointSource, OutputSource):
    """A checkpoint without a language-model head."""

    @override
    def check_evaluation(self) -> None:
        if self.recipe.eval_text is None:
            raise PatchCompileError(
                f"{self.model} is compared on text, and none is given",
                "It is an encoder, which writes no text of its own.",
                "Give text with --eval, other than that of --calib.",
            )

    @override
    def evaluation(self, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:
        self.check_evaluation()
        return evaluation_windows(self.recipe, self.tokenizer, progress)

    @override
    def probe(self, hybrid: Path, progress: Progress) -> Probe:
        """Returns batches of held-out text, some of it padded."""
        windows, text = self.evaluation(progress)
        padding = self.checkpoint.config.get("pad_token_id") or 0
        feeds = list(_feeds(windows, padding, [graph_input.name for graph_input in read_inputs(hybrid)]))
        count, length = windows.shape
        origin = TextWindows(name=text.name, windows=count, length=length, dtype=self.recipe.dtype)
        return Probe(feeds, origin, text)

    @override
    def pruned_outputs(
        self,
        pruned: Path,
        feeds: Sequence[Feed],
        outputs: tuple[str, ...],
        folder: Path,
        *,
        sixteen_bits: bool = False,
    ) -> Outputs:
        """Returns outputs by transformers, with weights as in the graph.

        sixteen_bits: compute in the graph's type, False for fp32.
        """
        import torch

        model = load_as_compiled(pruned, self.recipe.dtype, self.recipe.mask, sixteen_bits=sixteen_bits)
        folder.mkdir(parents=True, exist_ok=True)
        for run, feed in enumerate(feeds):
            with torch.no_grad():
                made = model(**{name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()})
            for number, name in enumerate(outputs):
                save_array(output_file(folder, number, run), made[name].float().numpy())
        return Outputs(folder, outputs, len(feeds))

    @property
    @override
    def pooling(self) -> Literal["mean", "first"]:
        """What sentence-transformers does with this model; the mean for a model that does not say."""
        file = self.model / _POOLING
        return "first" if file.is_file() and read_json_object(file).get("pooling_mode_cls_token") else "mean"

    @override
    def rounding(
        self,
        pruned: Path,
        hybrid: Path,
        packed: Sequence[str],
        probe: Probe,
        reference: Outputs,
        scratch: Path,
    ) -> Rounding:
        """Returns the roundings in the graph of a model with this number of blocks.

        If linears round X to int8, any other rounding may carry an input to another integer. Twice the error of the pruned
        model is then measured, which transformers computes in 16 bits. It is measured by norm: which tokens have the largest
        errors is chance.
        """
        from patch_compile.passes.lowering.round_inputs import rounds_inputs

        derived = roundings_of(self.layers)
        grids = grids_of_pruned(pruned, self.recipe.mask)
        if not any(map(rounds_inputs, grids.values())):
            return derived
        narrow = self.pruned_outputs(
            pruned, probe.feeds, reference.outputs, scratch / "narrow", sixteen_bits=True
        )
        error = worst_error(narrow, reference, by_norm=True)
        return replace(derived, measured=2.0 * error, by=ToleranceOrigin.SIXTEEN_BITS, by_norm=True)


def _feeds(windows: NDArray[np.int64], padding: int, names: Sequence[str]) -> Iterator[Feed]:
    """Yield batches of windows `[rows, length]` under the names of the graph's inputs."""
    for first in range(0, len(windows), _ROWS):
        ids = windows[first : first + _ROWS].copy()
        mask = np.ones_like(ids)
        hidden = (len(ids) - 1, slice(max(1, ids.shape[1] // 2), None))
        ids[hidden], mask[hidden] = padding, 0
        arrays = {INPUT_IDS: ids, ATTENTION_MASK: mask, TOKEN_TYPE_IDS: np.zeros_like(ids)}
        yield {name: arrays[name] for name in names}
