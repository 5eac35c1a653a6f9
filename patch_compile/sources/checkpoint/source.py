"""Hugging Face checkpoints as sources. Other modules contain the differences between decoders and encoders."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import GROUP
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage, covered_linears_of
from masklearn.model.folder import CONFIG, files_beside
from masklearn.model.pretrained import load_config, load_tokenizer
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType
from patch_compile.artifacts.layout import MODEL
from patch_compile.artifacts.plan import Workload
from patch_compile.artifacts.report import Kind
from patch_compile.errors import PatchCompileError
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import Outline, outline_of
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Bars, Source
from patch_compile.sources.checkpoint.pruning import CheckpointPruning, learn_checkpoint
from patch_compile.sources.kinds import Capability, Sequences, Stage
from patch_compile.sources.pruning import GivenMasks, Pruning, types_to_round

if TYPE_CHECKING:
    from masklearn.masks.select import Choose
    from patch_compile.passes import PassDump

__all__ = ["CheckpointSource"]

_STATE_BYTES = 12  # fp32 weight and the two moments of AdamW
_RANGE_TOKENS = 64  # the largest activations of language models are at the first tokens of a text
_PACKED_SHARE = 1.1  # packed weights and engine are no larger than this share of the 16-bit weights


class CheckpointSource(Source):
    """Common part of all checkpoints: weights by name, linears in blocks, text, and an exported graph."""

    texts = ("calib", "eval_text")
    pruned_file = MODEL
    pruned_words = "pruned checkpoint"
    to_report = "the model's config.json"

    def __init__(self, recipe: Recipe, checkpoint: Checkpoint) -> None:
        super().__init__(recipe.model)
        self._recipe, self._checkpoint = recipe, checkpoint
        self._notes: tuple[str, ...] = ()

    @property
    @override
    def recipe(self) -> Recipe:
        """The settings without changes: a checkpoint has no defaults of its own."""
        return self._recipe

    @override
    def with_other(self, *, kinds: str | None = None, weights: str | None = None) -> Self:
        """Returns a copy, which keeps what is known of coverage and outline: these depend on neither."""
        found = copy(self)
        given = {"kinds": kinds, "weights": weights}
        found._recipe = self._recipe.model_copy(update={name: text for name, text in given.items() if text})
        return found

    @property
    @override
    def name(self) -> str:
        """Name of the folder, after resolving links."""
        return self.model.resolve().name

    @property
    @override
    def notes(self) -> Sequence[str]:
        return self._notes

    @property
    @override
    def files(self) -> Sequence[Path]:
        return (self.model / CONFIG, *self._checkpoint.files())

    @property
    @override
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    @cached_property
    @override
    def coverage(self) -> Coverage:
        return covered_linears_of(self._checkpoint, self._recipe.include, self._recipe.exclude)

    @cached_property
    @override
    def fingerprint(self) -> str:
        return self._checkpoint.fingerprint()

    @override
    def fingerprint_of(self, pruned: Path) -> str:
        return Checkpoint.open(pruned).fingerprint()

    @override
    def files_of(self, pruned: Path) -> Sequence[Path]:
        return (pruned / CONFIG, *Checkpoint.open(pruned).files())

    @override
    def files_beside(self, model: Path) -> Mapping[str, Path]:
        return files_beside(model)

    @cached_property
    @override
    def outline(self) -> Outline:
        return outline_of(self._checkpoint, self.coverage, self._recipe.fuse)

    @property
    @override
    def workload(self) -> Workload:
        r = self._recipe
        return Workload(batch=r.batch_size, prompt=r.prompt_tokens, generated=r.generated_tokens)

    @property
    @override
    def sequences(self) -> Sequences:
        config = load_config(self.model).get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        return Sequences(config.vocab_size, positions, decodes=not self.why_not(Capability.NEXT_TOKENS))

    @property
    @override
    def graph_dtype(self) -> str:
        return self._recipe.dtype

    @cached_property
    @override
    def calibration_hash(self) -> str | None:
        from masklearn import open_text

        return None if self._recipe.calib is None else open_text(self._recipe.calib).fingerprint()

    @property
    @override
    def layers(self) -> int:
        return int(load_config(self.model).get_text_config().num_hidden_layers)

    @property
    @override
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model)

    @property
    @override
    def weights(self) -> int:
        return sum(math.prod(self._checkpoint.shape(name)) for name in self._checkpoint.names())

    @override
    def check(self, stages: Collection[Stage]) -> None:
        from masklearn import open_text
        from patch_compile.onnx_export.architectures import check_exportable
        from patch_compile.onnx_export.model import check_traceable

        self._checkpoint.check_unchanged()  # it was opened before the build began to watch its files
        if Stage.ONNX in stages:
            check_exportable(self._checkpoint)
            check_traceable(self.model)
        self.check_masks()
        if Stage.ONNX in stages:
            self._check_scales()
        for text in (self._recipe.calib, self._recipe.eval_text):
            if text is not None:
                open_text(text)

    def _check_scales(self) -> None:
        from patch_compile.passes.lowering.quantised_weights import check_scales

        for name, grid in self._kept_grids():
            check_scales(name, grid, self._recipe.dtype)

    @property
    @override
    def given_types(self) -> Mapping[str, WeightType]:
        return self._checkpoint.grids.types

    @cached_property
    @override
    def given(self) -> GivenMasks:
        """Masks of a quantised checkpoint's own weights get its grids: pruned weights are on them too."""
        found = super().given
        if self._recipe.weights is None and not found.masks.grids and found.weights == self.model:
            names = [name for name in found.masks if name in self._checkpoint.grids]
            found.masks.grids.update((name, self._checkpoint.grids[name]) for name in names)
        return found

    def _kept_grids(self) -> Iterator[tuple[str, Grid]]:
        """Yield the grids that are known before anything is learned."""
        grids = self._checkpoint.grids
        masks = self.given.masks.grids if self._recipe.mask is not None else {}
        yield from masks.items()
        for name, kinds in self.allowed_types.items():
            if self.given_types.get(name) in kinds and name not in masks:
                yield name, grids[name]

    def _check_float16(self) -> None:
        """Raise PatchCompileError if float16 does not hold the dense model's activations, and note the weights that it
        does not hold. A few tokens are run through the model, which takes a small part of the time of learning."""
        from masklearn import LARGEST, float16_fit

        tokens = self.tokenizer(self._recipe.prompt)["input_ids"][:_RANGE_TOKENS]
        if self._recipe.dtype != "float16" or not tokens:
            return
        fit = float16_fit(self._checkpoint, tokens, self._recipe.device)
        if fit.overflow is not None:
            place, largest = fit.overflow
            raise PatchCompileError(
                f"{self.name} does not compute in float16",
                f"In the dense model {place} reaches {largest:.6g}, and float16 ends at {LARGEST}.",
                "Choose bf16 (--dtype bfloat16), which has the range of fp32.",
            )
        if fit.vanished:
            lost = f"{fit.vanished} weights in {fit.linears} linears are too small for it and become 0"
            self._notes = (f"float16: {lost} (up to {fit.largest:.2g}); --dtype bfloat16 keeps them",)

    @override
    def space(self, stages: Collection[Stage]) -> int:
        """Returns bytes on disk. The proof also writes the dense ONNX file."""
        packed = 2 * self.weights * _PACKED_SHARE
        needs = {Stage.ONNX: packed, Stage.ENGINE: packed, Stage.PROOF: 2 * self.weights}
        if Stage.MASKS in stages:
            needs[Stage.MASKS] = self._stored + (self._learning_bytes() if self._recipe.mask is None else 0)
        return int(sum(needs[stage] for stage in stages))

    @override
    def learn(self, scratch: Path, progress: Progress, choose: Choose | None) -> Pruning:
        return learn_checkpoint(self._recipe, scratch, progress, choose, loss=self.kind is Kind.DECODER)

    @override
    def take_given(self, scratch: Path, progress: Progress) -> Pruning:
        from masklearn import round_given

        masks, checkpoint = self.given.masks, Checkpoint.open(self.given.weights)
        if types_to_round(masks, self._recipe.weights, self._recipe.mask, checkpoint.grids.types):
            with progress.stage("rounding") as update:
                checkpoint = round_given(
                    checkpoint, self.coverage, masks, self._recipe.learning(), scratch, update
                )
        return CheckpointPruning(masks, checkpoint)

    @override
    def weight(self, name: str) -> NDArray[np.float32]:
        from masklearn.model.linears import read_linear

        weight: NDArray[np.float32] = read_linear(self._checkpoint, name).numpy()
        return weight

    @override
    def write_hybrid(
        self,
        weights: Path,
        masks: Mapping[str, LinearMask],
        plan: Mapping[str, LinearPlan],
        path: Path,
        bars: Bars,
        dump: PassDump | None = None,
    ) -> dict[str, LinearPlan]:
        """Export the graph of the model, and write it with weights that are read one linear at a time."""
        from patch_compile.passes.write import export_graph, write_hybrid

        r, checkpoint = self._recipe, Checkpoint.open(weights)
        with bars("export"):
            graph = export_graph(self.model, dtype=r.dtype, opset=r.opset, logits=r.logits, dump=dump)
        with bars("pack") as update:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_hybrid(graph, checkpoint, masks, plan, path, r.dtype, update, fuse=r.fuse, dump=dump)

    @override
    def dense_onnx(
        self, path: Path, *, logits: Literal["all", "last"] | None = None, runnable: bool = False
    ) -> Path:
        from patch_compile.passes.write import export_graph, write_dense

        r = self._recipe
        graph = export_graph(self.model, dtype=r.dtype, opset=r.opset, logits=logits or r.logits)
        write_dense(graph, self._checkpoint, path, r.dtype, runnable=runnable)
        return path

    def _learning_bytes(self) -> int:
        """Returns bytes of the permuted, solved and repaired weights, of the checkpoints of passes over the blocks, and of
        two training checkpoints: the newest and the next."""
        from masklearn.base.device import available_memory, usable_device

        r = self._recipe
        stored = self._stored * (1 + r.permute + r.repairs) + self._pass_bytes()
        if not r.trains:
            return stored
        # The state of a checkpoint comes from memory, so it cannot be larger than the memory.
        return stored + 2 * min(_STATE_BYTES * self.weights, available_memory(usable_device(r.device)))

    def _pass_bytes(self) -> int:
        """Returns bytes of the patterns that scoring and solving find, and of the hidden states between blocks.

        The states are those of two blocks, or of all blocks while the sensitivity of the loss is computed.
        """
        r = self._recipe
        if not r.traits.needs:
            return 0
        patterns = 2 * sum(math.prod(shape) for shape in self.coverage.linears.values()) // GROUP
        hidden = int(load_config(self.model).get_text_config().hidden_size)
        return patterns + (self.layers + 3) * r.windows * r.length * hidden * 4

    @property
    def _stored(self) -> int:
        """Bytes of the files, or of the tensors where those of a quantised checkpoint take more as dense ones."""
        return max(sum(file.stat().st_size for file in self._checkpoint.files()), self._checkpoint.bytes())
