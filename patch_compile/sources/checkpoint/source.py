"""Hugging Face checkpoints as sources. Other modules contain the differences between decoders and encoders."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from masklearn import FISHER_WINDOWS
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import GROUP
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import text_settings
from masklearn.model.coverage import covered_linears_of
from masklearn.model.pretrained import load_tokenizer, token_ids
from patch_compile.artifacts.proof import PROMPT
from patch_compile.artifacts.report import Kind
from patch_compile.errors import PatchCompileError
from patch_compile.planning.lowering import LinearPlan
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Bars, Sequences, Stage, TextSource
from patch_compile.sources.checkpoint.references import check_evaluation
from patch_compile.sources.checkpoint_weights import CheckpointWeights
from patch_compile.sources.plan_task import PlanTask

if TYPE_CHECKING:
    from patch_compile.passes import PassDump

_STATE_BYTES = 12  # fp32 weight and the two moments of AdamW
_RANGE_TOKENS = 64  # the largest activations of language models are at the first tokens of a text
_PACKED_SHARE = 1.1  # packed weights and engine are at most this share of the 16-bit weights


class CheckpointSource(CheckpointWeights, TextSource):
    """Common part of decoders and encoders: linears in blocks, text, and a graph that is exported from the checkpoint."""

    @property
    @override
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    @property
    @override
    def sequences(self) -> Sequences:
        config = text_settings(self.model)
        positions = getattr(config, "max_position_embeddings", None)
        return Sequences(config.vocab_size, positions, decodes=self.kind is Kind.DECODER)

    @property
    @override
    def layers(self) -> int:
        return int(text_settings(self.model).num_hidden_layers)

    @property
    @override
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model)

    @override
    def check(self, stages: Collection[Stage]) -> None:
        from masklearn import check_writes, open_text
        from patch_compile.onnx_export.architectures import check_exportable
        from patch_compile.onnx_export.model import check_traceable

        self._checkpoint.check_unchanged()  # it was opened before the build began to watch its files
        if Stage.ONNX in stages:
            check_exportable(self._checkpoint)
            check_traceable(self.model)
        self.check_masks()
        if Stage.ONNX in stages:
            self._check_scales(PlanTask.of(self).types)
        r = self._recipe
        if r.pruned is not None:
            covered = covered_linears_of(Checkpoint.open(r.pruned), r.include, r.exclude).linears
            if covered != self.coverage.linears:
                raise PatchCompileError(
                    f"{r.pruned} is no pruned form of {self.model}",
                    "Its linears have other names or shapes.",
                    "Give the model that the masks were imported from.",
                )
        if r.calib is not None:
            open_text(r.calib)
        elif Stage.MASKS in stages and r.mask is None and r.reads_text:
            check_writes(self._checkpoint, r.device)
        r.check_held_out()
        if r.eval_text is not None:
            check_evaluation(r.eval_text, r, self.tokenizer)
        if Stage.PROOF in stages:
            self.check_evaluation()
            self._check_float16()

    def _check_float16(self) -> None:
        """Raise PatchCompileError if float16 does not hold the dense model's activations, and note the weights that it
        does not hold. A few tokens are run through the model, which takes a small part of the time of learning."""
        from masklearn import LARGEST, float16_fit

        tokens = token_ids(self.tokenizer, PROMPT)[:_RANGE_TOKENS]
        if self._recipe.dtype != "float16" or not tokens:
            return
        fit = float16_fit(self._checkpoint, tokens, self._recipe.device)
        if fit.overflow is not None:
            place, largest = fit.overflow
            raise PatchCompileError(
                f"{self.name} does not compute in float16",
                f"In the dense model {place} reaches {largest:.4g}, and float16 ends at {LARGEST}.",
                "Choose bf16 (--dtype bfloat16), which has the range of fp32.",
            )
        if fit.vanished:
            lost = f"{fit.vanished} weights in {fit.linears} linears are too small for it and become 0"
            self._notes = (f"float16: {lost} (up to {fit.largest:.2g}); --dtype bfloat16 keeps them",)

    @override
    def space(self, recipe: Recipe, stages: Collection[Stage]) -> int:
        """Returns bytes on disk. The proof also writes a copy of the ONNX file with decoded weights."""
        packed = 2 * self.size * _PACKED_SHARE
        needs = {Stage.ONNX: packed, Stage.ENGINE: packed, Stage.PROOF: 2 * self.size}
        if Stage.MASKS in stages:
            needs[Stage.MASKS] = self._stored + (0 if recipe.mask else self._learning_bytes(recipe))
        return int(sum(needs[stage] for stage in stages))

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
    def dense_onnx(self, path: Path, *, runnable: bool = False) -> Path:
        from patch_compile.passes.write import export_graph, write_dense

        r = self._recipe
        graph = export_graph(self.model, dtype=r.dtype, opset=r.opset, logits=r.logits)
        write_dense(graph, self._checkpoint, path, r.dtype, runnable=runnable)
        return path

    def _learning_bytes(self, r: Recipe) -> int:
        """Returns bytes of the permuted, solved and repaired weights, of the checkpoints of passes over the blocks, and of
        two training checkpoints: the newest and the next."""
        from masklearn.base.device import available_memory, usable_device

        rounds = r.weights is not None
        stored = self._stored * ((r.traits.solves or r.trains or rounds) + r.permute + r.repairs)
        stored += self._pass_bytes(r)
        if not r.trains:
            return stored
        # The state of a checkpoint comes from memory, so it cannot be larger than the memory.
        return stored + 2 * min(_STATE_BYTES * self.size, available_memory(usable_device(r.device)))

    def _pass_bytes(self, r: Recipe) -> int:
        """Returns bytes of the patterns that scoring and solving find, and of the hidden states between blocks.

        States of two blocks are counted, and of all blocks for the windows from which the sensitivity of the loss is
        computed.
        """
        if not r.traits.needs:
            return 0
        patterns = 2 * sum(math.prod(shape) for shape in self.coverage.linears.values()) // GROUP
        hidden = int(text_settings(self.model).hidden_size)
        windows = r.calibration_windows(self.coverage.widest)
        return patterns + (3 * windows + self.layers * min(windows, FISHER_WINDOWS)) * r.length * hidden * 4

    @property
    def _stored(self) -> int:
        """Bytes of the files, or of the tensors if a quantised checkpoint's tensors take more once they are dense."""
        return max(sum(file.stat().st_size for file in self._checkpoint.files()), self._checkpoint.bytes())
