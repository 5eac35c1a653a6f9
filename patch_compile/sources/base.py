"""What commands ask of a model. A function names in its signature the narrowest class that it needs.

`Weights` is the model that is pruned: its linears, its files, and masks for them. `Graph` is the graph that is compiled with
these weights. A `Source` is both. What only some models can do is in the narrower classes below, and a class lacks what its
model can't do; `open.needed` refuses a model for a command. Each kind of source is a class in its own package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.proof import InputsFile, RandomInputs, TextWindows
from patch_compile.artifacts.report import Kind
from patch_compile.progress import Progress, Update
from patch_compile.sources.formats import ModelFormat
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

# Bytes per weight at the peak, without packed weights: transformers holds 16-bit weights while it converts them to fp32,
# and ONNX Runtime while it packs them for its products.
_PEAK_BYTES = 6
_REST = 1 << 30  # bytes for the libraries, activations and logits

Bars = Callable[[str], AbstractContextManager[Update]]
"""`bars(name)` opens a progress bar for a step of the work, like `Progress.stage`."""


class Stage(StrEnum):
    """The stages of a build, in order. Each name is a key of the manifest."""

    MASKS = "masks"
    ONNX = "onnx"
    ENGINE = "engine"
    PROOF = "proof"


@dataclass(frozen=True)
class Sequences:
    """Token sequences that a source takes.

    vocabulary: number of tokens in the vocabulary; positions: maximum length, None without a limit; decodes: True if it
    also takes single steps with a KV cache.
    """

    vocabulary: int
    positions: int | None
    decodes: bool


@dataclass(frozen=True)
class Probe:
    """Inputs on which outputs of models are compared.

    origin: the origin of the feeds; text: the text that they are made from, None without text.
    """

    feeds: Sequence[Feed]
    origin: TextWindows | InputsFile | RandomInputs
    text: EvalText | None = None


class Weights(ABC):
    """The model that is pruned. Opening it reads no weights and checks only enough to find its kind."""

    model: Path
    format: ModelFormat

    @property
    @abstractmethod
    def kind(self) -> Kind: ...

    @property
    @abstractmethod
    def recipe(self) -> Recipe:
        """The settings, completed with the defaults of this kind of model."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the model; the default name of OUT contains it."""

    @property
    @abstractmethod
    def coverage(self) -> Coverage:
        """The pruned linears with their shapes, and the other linears with the reason why they stay dense."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of configuration and weights."""
        return self.format.files_of(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the model."""
        return self.format.fingerprint_of(self.model)

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of weights in the whole model."""

    @property
    @abstractmethod
    def calibration_hash(self) -> str | None:
        """sha256 of the text or arrays that masks are learned on; None if none are given."""

    @property
    def given_types(self) -> Mapping[str, WeightType]:
        """Types of the linears of a model that is quantised already. They keep them unless others are requested."""
        return {}

    @property
    def dequantised(self) -> int:
        """Number of linears that are quantised with zero points, and so have 16-bit weights unless others are requested."""
        return 0

    @cached_property
    def given(self) -> GivenMasks:
        """The masks of the setting `mask`. Raises PatchCompileError if they are for another model."""
        r = self.recipe
        assert r.mask is not None
        return given_masks(r.mask, self.coverage.linears, self.model, r.pruned, self.format)

    def check_masks(self) -> None:
        """Read the linears, and the masks of the setting `mask`. Raises PatchCompileError as `coverage` and `given` do."""
        _ = self.coverage.linears
        if self.recipe.mask is not None:
            _ = self.given

    @abstractmethod
    def weight(self, name: str) -> NDArray[np.float32]:
        """Returns the weight `[N, K]` of a linear of the dense model."""

    @abstractmethod
    def learn(self, recipe: Recipe, scratch: Path, progress: Progress, choose: Chooser | None) -> Pruning:
        """Learn masks and, with some methods, new weights.

        recipe: the source's own, with nothing left open; choose: see `masklearn.learn`.
        """

    @abstractmethod
    def take_given(self, scratch: Path, progress: Progress) -> Pruning:
        """Returns the given masks with the weights that belong to them, rounded if the recipe asks for it.

        Also raises PatchCompileError as `types_to_round` does.
        """


class Graph(ABC):
    """The graph that is compiled."""

    @property
    @abstractmethod
    def notes(self) -> Sequence[str]:
        """Lines about defaults that were chosen, and about what was found."""

    @property
    def graph_key(self) -> str | None:
        """sha256 of the graph; None if it is exported from the model or is the model."""
        return None

    @property
    def outline(self) -> Outline | None:
        """Costs of the model outside its linears; None if no speed is predicted."""
        return None

    @property
    def sequences(self) -> Sequences | None:
        """The token sequences that the graph takes; None if its inputs are other arrays, or unknown."""
        return None

    @abstractmethod
    def check(self, stages: Collection[Stage]) -> None:
        """Raise PatchCompileError for anything in the model, its texts or its masks that would stop these stages."""

    def check_shapes(self) -> None:
        """Raise PatchCompileError for shapes of the engine that the graph's inputs cannot have, if the inputs are known
        already."""
        return

    @abstractmethod
    def space(self, recipe: Recipe, stages: Collection[Stage]) -> int:
        """Returns the maximum number of bytes on disk that these stages write. recipe: as for `Weights.learn`."""

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


class Source(Weights, Graph):
    """Weights with the graph that is compiled with them."""


class ProvenSource(Source):
    """A source whose whole builds are proven and timed."""

    @abstractmethod
    def dense_onnx(self, path: Path, *, runnable: bool = False) -> Path:
        """Returns the dense model as an ONNX file, either written to `path` or the source's own file.

        runnable: make a file that ONNX Runtime can run.
        """

    @abstractmethod
    def proof_feed(self, hybrid: Path, progress: Progress) -> Feed:
        """Returns the inputs of the first run of the proof. hybrid: a file that ONNX Runtime can run."""


class TextSource(ProvenSource):
    """A source that takes text, and whose blocks can be run one after another, dense and pruned."""

    @cached_property
    def memory(self) -> tuple[int, int]:
        """Bytes that ONNX Runtime, or transformers in fp32, takes at its peak for the whole model, and bytes that this
        process can allocate at the first access."""
        from masklearn.base.device import available_memory, usable_device

        return _PEAK_BYTES * self.size + _REST, available_memory(usable_device("cpu"))

    @property
    def fits_in_memory(self) -> bool:
        """True if this machine can run the model as a whole. Else its weights are read from the disk in each run."""
        needed, free = self.memory
        return needed <= free

    @property
    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """The model as masklearn runs it block by block."""

    @property
    @override
    @abstractmethod
    def sequences(self) -> Sequences:
        """The token sequences that the graph takes."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """Number of blocks."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""

    @abstractmethod
    def check_evaluation(self) -> None:
        """Raise PatchCompileError if no text to evaluate on is given and the model can't write it."""

    @abstractmethod
    def evaluation(self, progress: Progress) -> tuple[NDArray[np.int64], EvalText]:
        """Returns the evaluation text as windows of tokens `[count, length]`, and its name and path."""


class TokenSource(TextSource):
    """A source that predicts next tokens: it has a perplexity, and continues text."""

    @abstractmethod
    def reference_logits(
        self, model: Path, *, sixteen_bits: bool = False
    ) -> Callable[[Feed], NDArray[np.float32]]:
        """Load a checkpoint, and return a function that computes its logits for a feed of the hybrid graph.

        model: the pruned model, or this model; sixteen_bits: compute in the graph's type, False for fp32.
        """


class OutputSource(ProvenSource):
    """A source that predicts no next tokens. Its dense, pruned and hybrid models are compared by their outputs."""

    @property
    def pooling(self) -> Literal["mean", "first"] | None:
        """How an embedding of a text is made of its last hidden states: their mean, or the first. None if the outputs are
        not hidden states of texts."""
        return None

    @override
    def proof_feed(self, hybrid: Path, progress: Progress) -> Feed:
        return self.probe(hybrid, progress).feeds[0]

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
