"""The protocol of a source: a model that a build starts from, and everything that a command asks of one.

Each kind of source is a class in a room of its own; `sources.open` chooses it. `build`, `verify` and `bench` know this
protocol alone: what a kind can't do it says itself, with the reason (`lacks`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from patch_compile.errors import PatchCompileError
from patch_compile.out.plan import Plan, Unpredicted
from patch_compile.out.report import Kind
from patch_compile.plan.lowering import plan_linears
from patch_compile.plan.planner import plan_of, settle_together, unpredicted_plan
from patch_compile.progress import Progress, Update
from patch_compile.sources.kinds import Ability, Sequences, Stage
from patch_compile.sources.pruning import GivenMasks, Pruning, given_masks
from patch_compile.sources.rounding import Rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.checkpoint.checkpoint import Checkpoint
    from masklearn.checkpoint.coverage import Coverage
    from masklearn.learn import Choose
    from masklearn.masks.linear_mask import LinearMask
    from patch_compile.onnx_io.compare import Answers
    from patch_compile.onnx_io.feeds import Feed
    from patch_compile.passes import PassDump
    from patch_compile.plan.cost import CostModel
    from patch_compile.plan.lowering import LinearPlan
    from patch_compile.plan.outline import Outline
    from patch_compile.plan.workload import Workload
    from patch_compile.recipe import Recipe

__all__ = ["Bars", "Probe", "Source"]

Bars = Callable[[str], AbstractContextManager[Update]]
"""`bars(name)` opens a bar for a step of the work, as `Progress.stage` does."""


@dataclass(frozen=True)
class Probe:
    """What outputs are compared on. words: what the feeds are; text: name and path of the text they are made of."""

    feeds: Sequence[Feed]
    words: str
    text: dict[str, Any] | None = None


class Source(ABC):
    """One model to build from. Opening it reads no weight, and checks no more than finding its kind takes."""

    kind: ClassVar[Kind]
    words: ClassVar[str]  # such as "an encoder"
    texts: ClassVar[tuple[str, ...]]  # the settings that name a text, as `masklearn.text.open_text` reads one
    pruned_file: ClassVar[str]  # of OUT: the pruned model
    pruned_words: ClassVar[str]
    told_by: ClassVar[str]  # what tells others of the model, for the report of a fault
    lacking: ClassVar[Mapping[Ability, str]] = {}  # reasons; `{model}` is the name of the source

    def __init__(self, model: Path) -> None:
        self.model = model

    # What it is.

    @property
    @abstractmethod
    def recipe(self) -> Recipe:
        """The settings, with the defaults of this kind of source filled in."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the model, which OUT is named after where no -o is given."""

    @property
    @abstractmethod
    def coverage(self) -> Coverage:
        """The linears that are pruned, with their shapes, and the others with the reason why not."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of the model."""

    @abstractmethod
    def fingerprint_of(self, pruned: Path) -> str:
        """sha256 of a pruned model that was written from this source."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines on the defaults that were taken."""
        return ()

    @property
    @abstractmethod
    def weights(self) -> int:
        """Number of weights in the whole model."""

    @property
    def outline(self) -> Outline | None:
        """What the model computes beside its linears; None where no speed is predicted."""
        return None

    @property
    def workload(self) -> Workload | None:
        """What speed is predicted for."""
        return None

    @property
    def sequences(self) -> Sequences | None:
        """The token sequences that the model takes; None where its inputs are other arrays."""
        return None

    @property
    def graph_dtype(self) -> str | None:
        """The type that its whole graph computes in; None for a graph with types of its own."""
        return None

    @property
    def pruned_dtype(self) -> str | None:
        """The type that the pruned model's weights are rounded to; None where they keep their own."""
        return None

    @property
    @abstractmethod
    def calibration_hash(self) -> str | None:
        """sha256 of the text or arrays that masks are learned on, None where none are given."""

    # What can be refused.

    def lacks(self, ability: Ability) -> str:
        """Why it can't do something, in words; empty where it can."""
        return self.lacking.get(ability, "").format(model=self.model.name)

    def require(self, command: Ability) -> None:
        """Raise PatchCompileError unless a command takes this kind of source."""
        if why := self.lacks(command):
            raise PatchCompileError(
                f"{command} takes a model directory, not {self.model}",
                why,
                "`patch-compile build` takes ONNX files, and --backend onnx stops it there.",
            )

    @abstractmethod
    def check(self, stages: Collection[Stage]) -> None:
        """Raise PatchCompileError for anything of the model, its texts and its masks that would stop these stages."""

    def check_shapes(self) -> None:
        """Raise PatchCompileError for shapes of the engine that the graph's inputs can't have, where they are known."""
        return

    @abstractmethod
    def space(self, stages: Collection[Stage]) -> int:
        """Bytes on the disk that these stages take at most, nothing being removed."""

    @cached_property
    def given(self) -> GivenMasks:
        """The masks of the setting `mask`. Raises PatchCompileError where they are not for this model."""
        assert self.recipe.mask is not None
        linears = self.coverage.linears
        return given_masks(self.recipe.mask, linears, self.model, self.pruned_file, self.fingerprint_of)

    # Masks, and ONNX files.

    @abstractmethod
    def learn(self, scratch: Path, progress: Progress, choose: Choose | None) -> Pruning:
        """Learn masks, and new weights where the method makes any. choose: see `masklearn.learn.learn`."""

    @abstractmethod
    def take_given(self) -> Pruning:
        """The given masks, with the weights that belong to them."""

    @abstractmethod
    def weight(self, name: str) -> NDArray[np.float32]:
        """W `[N, K]` of a linear of the dense model."""

    def plan(self, masks: Mapping[str, LinearMask], costs: CostModel | None) -> dict[str, LinearPlan]:
        """The lowering of each linear, as asked, or by what is predicted."""
        lowering = self.recipe.lowering
        plans = plan_linears(masks, lowering, costs)
        return settle_together(plans, lowering, self.outline, costs) if self.outline else plans

    def compiled_plan(self, compiled: Mapping[str, LinearPlan], costs: CostModel | None) -> Plan:
        """plan.json: the linears as the graph has them, and what that promises for the whole model."""
        if self.outline is None:
            return unpredicted_plan(compiled, Unpredicted.NO_CHECKPOINT)
        return plan_of(compiled, self.outline.compiled(compiled.values()), costs)

    @abstractmethod
    def write_hybrid(
        self,
        weights: Path,
        masks: Mapping[str, LinearMask],
        plan: Mapping[str, LinearPlan],
        path: Path,
        bars: Bars,
        dump: PassDump | None = None,
    ) -> dict[str, LinearPlan]:
        """Write the hybrid ONNX file; returns the plan with what the graph decided.

        weights: the model whose weights are masked and packed, which is this one or its pruned form.
        """

    @abstractmethod
    def dense_onnx(
        self, path: Path, *, logits: Literal["all", "last"] | None = None, runnable: bool = False
    ) -> Path:
        """The dense model as an ONNX file: written to `path`, or the source's own file.

        logits: the positions that a decoder gives them of, None as the recipe says; runnable: as ONNX Runtime can run it.
        """

    # Run block by block, or by next tokens.

    @property
    def checkpoint(self) -> Checkpoint:
        """The model as masklearn runs it block by block. Raises PatchCompileError where it can't."""
        raise self._lack(Ability.BLOCKS)

    def evaluation(self, progress: Progress) -> tuple[NDArray[np.int64], dict[str, Any]]:  # noqa: ARG002
        """Held-out text: windows of tokens `[count, length]`, and name and path of their text."""
        raise self._lack(Ability.BLOCKS)

    @property
    def layers(self) -> int:
        """Number of blocks."""
        raise self._lack(Ability.BLOCKS)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        raise self._lack(Ability.NEXT_TOKENS)

    def pruned_logits(self, pruned: Path) -> Callable[[Feed], NDArray[np.float32]]:  # noqa: ARG002
        """Load the pruned model; what is returned gives its logits for a feed of the hybrid graph."""
        raise self._lack(Ability.NEXT_TOKENS)

    # Compared by outputs, where it predicts no tokens.

    def probe(self, hybrid: Path, progress: Progress) -> Probe:
        """What the outputs of dense, pruned and hybrid model are compared on."""
        raise NotImplementedError(f"{self.words} is compared by next tokens")

    def pruned_outputs(
        self, pruned: Path, feeds: Sequence[Feed], outputs: tuple[str, ...], folder: Path
    ) -> Answers:
        """The outputs of the pruned model, which the hybrid one must agree with; files go to `folder`."""
        raise NotImplementedError(f"{self.words} is compared by next tokens")

    def rounding(
        self,
        pruned: Path,
        hybrid: Path,
        packed: Sequence[str],
        probe: Probe,
        reference: Answers,
        scratch: Path,
    ) -> Rounding:
        """What rounding alone does. packed: names of the linears that are compiled; reference: `pruned_outputs`."""
        raise NotImplementedError(f"{self.words} is compared by next tokens")

    def _lack(self, ability: Ability) -> PatchCompileError:
        return PatchCompileError(
            f"{self.model} can't be asked for {ability}", self.lacks(ability), "Leave that out."
        )
