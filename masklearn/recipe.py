"""Settings of mask learning. They are checked once, when a recipe is made."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from masklearn.base.errors import UsageError
from masklearn.base.settings import Settings
from masklearn.masks.budget import parse_ratio
from masklearn.masks.kinds.allowed import only_two_four, parse_kinds
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.name_globs import parse_pattern
from masklearn.masks.tiles import GROUP, parse_tile
from masklearn.masks.weight_types import named_types, parse_weights
from masklearn.quant.table import INT4
from masklearn.traits import METHODS, Criterion, MethodTraits, Repair, Requires

__all__ = [
    "BytesPerWeight",
    "Criterion",
    "Kinds",
    "LearnRecipe",
    "LearnSettings",
    "Pattern",
    "Ratio",
    "Repair",
    "Tile",
    "Weights",
]

_Positive = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, AfterValidator(parse_pattern)]

# A ratio of zeroed weights, or ratios by pattern; "0.4" becomes 0.4.
Ratio = Annotated[float | str, AfterValidator(parse_ratio)]


def _tile(value: Any) -> Any:
    return parse_tile(value) if isinstance(value, str) else value


# (rows, columns), or text such as "128x128".
Tile = Annotated[tuple[_Positive, _Positive], BeforeValidator(_tile)]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"The methods are {', '.join(METHODS)}.")
    return name


# Kinds of tiles, or kinds by pattern.
Kinds = Annotated[str, AfterValidator(parse_kinds)]

# A weight type, or types by pattern.
Weights = Annotated[str, AfterValidator(parse_weights)]


class LearnSettings(Settings):
    """All settings of learning but the ratio, which a build may take from a masks file.

    method: one of `METHODS`; per_layer: True if every linear has the ratio, False if all linears together have it; tile:
    (rows, cols), cols a multiple of 4; kinds: kinds of tiles beside dense, see `masks.kinds.allowed`; weights: weight types,
    see `masks.weight_types`, None for 16 bits everywhere; include, exclude: patterns of `masks.name_globs`; calib: a text of
    `masklearn.text`, None for text that the model writes itself; windows: number of calibration windows; length: tokens per
    window; seed: seed of all random draws; device: device of the model, None for CUDA if there is one; threads: number of
    threads on a CPU, None for as many as torch takes. Results depend on it, by rounding, in bf16, in runs of an ONNX file,
    and where `masklearn.base.threads.even_parts` is False.

    criterion: see `Criterion`, None for the method's default; damping: of the Hessian, as a share of its mean diagonal;
    permute: reorder hidden channels of feed-forward parts first (see `masklearn.permute`).

    repair: see `Repair`, None for the method's default; repair_steps, repair_minutes: budget of the repair, the first to
    end ends it; label_weight: weight of the cross-entropy of the text's own tokens, added to the divergence, in repair.

    batch: windows per step of training; learning_rate: of training, None for the default; precision: of all training,
    and of the forward passes of methods that solve weights; gradient_checkpointing: of all training; checkpoint_every:
    steps between checkpoints of training.

    prior, steps, distill_weight: settings of methods that train masks: the one-shot method or masks file to start from,
    the number of steps, and the weight of the KL from the dense model, added to the language model's loss.
    """

    method: Annotated[str, AfterValidator(_known_method)] = "oneshot"
    per_layer: bool = False
    tile: Tile = (128, 128)
    kinds: Kinds = "2:4"
    weights: Weights | None = None
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    calib: str | None = None
    windows: _Positive = 32
    length: Annotated[int, Field(ge=2)] = 512
    seed: Annotated[int, Field(ge=0)] = 0
    device: str | None = None
    threads: _Positive | None = None
    criterion: Criterion | None = None
    damping: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    permute: bool = False
    repair: Repair | None = None
    repair_steps: Annotated[int, Field(ge=0)] | None = None
    repair_minutes: Annotated[float, Field(gt=0.0)] | None = None
    batch: _Positive = 2
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    label_weight: Annotated[float, Field(ge=0.0)] = 0.0
    prior: str = "oneshot"
    steps: _Positive = 200
    distill_weight: Annotated[float, Field(ge=0.0)] = 1.0
    checkpoint_every: _Positive = 50
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False

    @property
    def traits(self) -> type[MethodTraits]:
        """Traits of the method."""
        return METHODS[self.method]

    def phases(self, *, loss: bool = True) -> dict[str, str]:
        """Returns the names of the phases of learning that take long, in their order, as `OnStep` gets them.

        Each has the name of the phase that it takes at least as long as, or "". loss: False for an encoder, which has no
        loss to be sensitive.
        """
        criterion = self.criterion or next(iter(self.traits.criteria), None)
        phases = {
            "scoring": not self.traits.trains(),
            "sensitivity of the loss": loss and criterion is Criterion.FISHER,
            "solving": self.traits.solves,
            "learning masks": self.traits.trains(),
            "repair": self.repairs,
            "rounding": self.repairs and any(kind.quantised for kind in named_types(self.weights)),
            "scales": self.repairs and INT4 in named_types(self.weights),
        }
        # Solving runs the blocks on the same text or more, and solves besides.
        longer_than = {"solving": "scoring"}
        return {name: longer_than.get(name, "") for name, comes in phases.items() if comes}

    def check_choice(self) -> None:
        """Raises UsageError for weight types that are to be chosen by a method whose scores know no rounding."""
        ranks = self.criterion is None or Requires.INPUTS in self.criterion.needs
        if self.traits.trains() or not self.traits.solves or not ranks:
            by = f"`method` {self.method}" + (f" `criterion` {self.criterion}" if self.criterion else "")
            raise UsageError(
                f"{by} can't choose among the types of `weights` {self.weights}",
                "What rounding loses is an output error, and here tiles are ranked by something else.",
                "Take `method` oneshot or sparsegpt, ranked by fisher, relative or raw; or name one type, such as int8.",
            )

    @property
    def repairs(self) -> bool:
        """True if the surviving weights are repaired, by the setting or by the method's default."""
        return (self.repair or self.traits.repair) is Repair.DISTILL

    @property
    def trains(self) -> bool:
        """True if learning trains, and so needs more text than the calibration windows."""
        return self.repairs or self.traits.trains()

    @field_validator("tile")
    @classmethod
    def _whole_groups(cls, tile: tuple[int, int]) -> tuple[int, int]:
        if tile[1] % GROUP:
            raise ValueError(f"The columns of a tile are a multiple of {GROUP}.")
        return tile

    @field_validator("kinds")
    @classmethod
    def _kinds_of_the_method(cls, kinds: str, info: ValidationInfo) -> str:
        method = info.data.get("method")
        if method is not None and METHODS[method].only_two_four and not only_two_four(kinds):
            raise ValueError(f"The method {method} learns 2:4 tiles only. oneshot learns all kinds.")
        return kinds


BytesPerWeight = Annotated[float, Field(gt=0.0, le=BYTES_DENSE, allow_inf_nan=False)]


class LearnRecipe(LearnSettings):
    """All settings of `learn`.

    ratio: zeroed weights / weights, 0 ... 0.5, or ratios by pattern such as `mlp.*=0.5,*.v_proj=0` (see `masks.budget`);
    bytes_per_weight: bytes of a 16-bit weight in packed slabs, on average over all covered linears, which the masks do not
    exceed. It replaces the ratio; None for the ratio.
    """

    ratio: Ratio = 0.4
    bytes_per_weight: BytesPerWeight | None = None
