"""Interface of a source: the model that a build starts from, and everything that a command asks of it.

Each kind of source is a class in its own package, and `sources.open` chooses the kind. `build`, `verify` and `bench` use
only this interface. A source gives the reason for each capability that it lacks (`lacks`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.proof import InputsFile, RandomInputs, TextWindows
from patch_compile.artifacts.report import Kind
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress, Update
from patch_compile.sources.kinds import Capability, Sequences, Stage
from patch_compile.sources.memory import bytes_to_run, free_bytes
from patch_compile.sources.pruning import GivenMasks, Pruning, given_masks
from patch_compile.sources.rounding import Rounding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.choice.solve import Chooser
    from masklearn.masks.linear_mask import LinearMask
    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import Coverage
    from masklearn.quant.table import WeightType
    from patch_compile.onnx_io.compare import Outputs
    from patch_compile.onnx_io.feeds import Feed
    from patch_compile.passes import PassDump
    from patch_compile.planning.lowering import LinearPlan
    from patch_compile.planning.outline import Outline
    from patch_compile.recipe import Recipe

Bars = Callable[[str], AbstractContextManager[Update]]
"""`bars(name)` opens a progress bar for a step of the work, like `Progress.stage`."""


@dataclass(frozen=True)
class Probe:
    """Inputs on which outputs of models are compared.

    origin: the origin of the feeds; text: the text that they are made from, None without text.
    """

    feeds: Sequence[Feed]
    origin: TextWindows | InputsFile | RandomInputs
    text: EvalText | None = None


class Source(ABC):
    """One model to build from. Opening it reads no weights and checks only enough to find its kind."""

    kind: ClassVar[Kind]
    words: ClassVar[str]  # description of the kind, such as "an encoder"
    texts: ClassVar[tuple[str, ...]]  # settings whose value is a text for `masklearn.text.open_text`
    pruned_file: ClassVar[str]  # path of the pruned model in OUT
    pruned_words: ClassVar[str]
    to_report: ClassVar[str]  # the file to attach to a report of a compiler fault
    # Reasons why abilities are missing; `{model}` is the name of the source.
    why_lacking: ClassVar[Mapping[Capability, str]] = {}

    def __init__(self, model: Path) -> None:
        self.model = model

    # Description of the model.

    @property
    @abstractmethod
    def recipe(self) -> Recipe:
        """The settings, completed with the defaults of this kind of source."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the model; the default name of OUT contains it."""

    @property
    @abstractmethod
    def coverage(self) -> Coverage:
        """The pruned linears with their shapes, and the other linears with the reason why they stay dense."""

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files that `fingerprint` covers: configuration and weights."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of the model."""

    @abstractmethod
    def fingerprint_of(self, pruned: Path) -> str:
        """Returns the sha256 of a pruned model that was written from this source."""

    @abstractmethod
    def files_of(self, pruned: Path) -> Sequence[Path]:
        """Returns the files that `fingerprint_of` covers."""

    def files_beside(self, model: Path) -> Mapping[str, Path]:  # noqa: ARG002
        """Returns all other files that are read or copied with the model or a pruned model, by name, in their present
        state."""
        return {}

    @property
    def notes(self) -> Sequence[str]:
        """Lines about defaults that were chosen."""
        return ()

    @property
    def dequantised(self) -> int:
        """Number of linears that are quantised with zero points, and so have 16-bit weights unless others are requested."""
        return 0

    @property
    @abstractmethod
    def weights(self) -> int:
        """Number of weights in the whole model."""

    @cached_property
    def fits_in_memory(self) -> bool:
        """True if this machine has the memory to run the model as a whole, at the first access. Else its weights are read
        from the disk in each run."""
        return bytes_to_run(self.weights) <= free_bytes()

    @property
    def outline(self) -> Outline | None:
        """Costs of the model outside its linears; None if no speed is predicted."""
        return None

    @property
    def sequences(self) -> Sequences | None:
        """The token sequences that the model takes; None if its inputs are other arrays."""
        return None

    @property
    def graph_key(self) -> str | None:
        """sha256 of the graph that is compiled; None if it is exported from the model or is the model."""
        return None

    @property
    def pruned_dtype(self) -> str | None:
        """The type that the weights of the pruned model are rounded to; None if they keep their own type."""
        return None

    @property
    @abstractmethod
    def calibration_hash(self) -> str | None:
        """sha256 of the text or arrays that masks are learned on; None if none are given."""

    # Checks.

    def why_not(self, ability: Capability) -> str:
        """Returns the reason why the source lacks an ability; empty if it has the ability."""
        return self.why_lacking.get(ability, "").format(model=self.model.name)

    def require(self, command: Capability) -> None:
        """Raise PatchCompileError if a command does not take this kind of source."""
        if why := self.why_not(command):
            raise PatchCompileError(
                f"{command} takes a model directory, not {self.model}",
                why,
                "`patch-compile build` takes ONNX files, and --backend onnx stops it there.",
            )

    def require_next_tokens(self, flag: str) -> None:
        """Raise PatchCompileError for a flag that only works for models that predict next tokens."""
        if why := self.why_not(Capability.NEXT_TOKENS):
            raise PatchCompileError(f"{flag} does not go with {self.words}", why, f"Drop {flag}.")

    @abstractmethod
    def check(self, stages: Collection[Stage]) -> None:
        """Raise PatchCompileError for anything in the model, its texts or its masks that would stop these stages."""

    def check_shapes(self) -> None:
        """Raise PatchCompileError for shapes of the engine that the graph's inputs cannot have, if the inputs are known
        already."""
        return

    @abstractmethod
    def space(self, recipe: Recipe, stages: Collection[Stage]) -> int:
        """Returns the maximum number of bytes on disk that these stages write. recipe: as for `learn`."""

    @cached_property
    def given(self) -> GivenMasks:
        """The masks of the setting `mask`. Raises PatchCompileError if they are for another model."""
        assert self.recipe.mask is not None
        linears = self.coverage.linears
        place = (self.model, self.pruned_file, self.recipe.pruned)
        return given_masks(self.recipe.mask, linears, *place, self.fingerprint_of)

    def check_masks(self) -> None:
        """Read the linears, and the masks of the setting `mask`. Raises PatchCompileError as `coverage` and `given` do."""
        _ = self.coverage.linears
        if self.recipe.mask is not None:
            _ = self.given

    # Masks, and ONNX files.

    @property
    def given_types(self) -> Mapping[str, WeightType]:
        """Types of the linears of a model that is quantised already. They keep them unless others are requested."""
        return {}

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
        """Write the hybrid ONNX file, and return the plan with the decisions that the graph made.

        weights: the model whose weights are masked and packed; this model or its pruned form.
        """

    def write_beside(self, onnx: Path) -> None:  # noqa: B027
        """Write the files next to OUT's ONNX file that other programs need to run it; most kinds of models need no such
        files."""

    # Abilities that some sources lack. Each method raises PatchCompileError with the reason if the source does.

    def learn(
        self,
        recipe: Recipe,  # noqa: ARG002
        scratch: Path,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
        choose: Chooser | None,  # noqa: ARG002
    ) -> Pruning:
        """Learn masks and, with some methods, new weights.

        recipe: the source's own, with nothing left open; choose: see `masklearn.learn`.
        """
        raise self._refusal(Capability.LEARN)

    def take_given(self, scratch: Path, progress: Progress) -> Pruning:  # noqa: ARG002
        """Returns the given masks with the weights that belong to them, rounded if the recipe asks for it.

        Also raises PatchCompileError as `types_to_round` does.
        """
        raise self._refusal(Capability.LEARN)

    def weight(self, name: str) -> NDArray[np.float32]:  # noqa: ARG002
        """Returns the weight `[N, K]` of a linear of the dense model."""
        raise self._refusal(Capability.LEARN)

    def dense_onnx(self, path: Path, *, runnable: bool = False) -> Path:  # noqa: ARG002
        """Returns the dense model as an ONNX file, either written to `path` or the source's own file.

        runnable: make a file that ONNX Runtime can run.
        """
        raise self._refusal(Capability.LEARN)

    @property
    def checkpoint(self) -> Checkpoint:
        """The model as masklearn runs it block by block."""
        raise self._refusal(Capability.BLOCKS)

    def check_evaluation(self) -> None:
        """Raise PatchCompileError if no text to evaluate on is given and the model can't write it."""
        raise self._refusal(Capability.BLOCKS)

    def evaluation(self, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:  # noqa: ARG002
        """Returns the evaluation text as windows of tokens `[count, length]`, and its name and path."""
        raise self._refusal(Capability.BLOCKS)

    @property
    def layers(self) -> int:
        """Number of blocks."""
        raise self._refusal(Capability.BLOCKS)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        raise self._refusal(Capability.NEXT_TOKENS)

    def reference_logits(
        self,
        model: Path,  # noqa: ARG002
        *,
        sixteen_bits: bool = False,  # noqa: ARG002
    ) -> Callable[[Feed], NDArray[np.float32]]:
        """Load a checkpoint, and return a function that computes its logits for a feed of the hybrid graph.

        model: the pruned model, or this model; sixteen_bits: compute in the graph's type, False for fp32.
        """
        raise self._refusal(Capability.NEXT_TOKENS)

    def _refusal(self, ability: Capability) -> PatchCompileError:
        return PatchCompileError(
            f"{self.model} can't be asked for {ability}",
            self.why_not(ability),
            f"`patch-compile build` takes {self.words}. For {ability}, give the directory of a decoder.",
        )


class OutputSource(Source):
    """A source that predicts no next tokens. Its dense, pruned and hybrid models are compared by their outputs."""

    @property
    def pooling(self) -> Literal["mean", "first"] | None:
        """How an embedding of a text is made of its last hidden states: their mean, or the first. None if the outputs are
        not hidden states of texts."""
        return None

    @abstractmethod
    def probe(self, hybrid: Path, progress: Progress) -> Probe:
        """Returns the inputs on which the models are compared."""

    @abstractmethod
    def pruned_outputs(
        self, pruned: Path, feeds: Sequence[Feed], outputs: tuple[str, ...], folder: Path
    ) -> Outputs:
        """Returns the reference outputs of the pruned model, with which the hybrid model must agree. Files are written to
        `folder`."""

    @abstractmethod
    def rounding(
        self,
        pruned: Path,
        hybrid: Path,
        packed: Sequence[str],
        probe: Probe,
        reference: Outputs,
        scratch: Path,
    ) -> Rounding:
        """Returns the effect of rounding on the outputs.

        packed: names of the linears that are compiled; reference: the result of `pruned_outputs`.
        """
