"""Settings of mask learning. They are checked once, when a recipe is made."""

from typing import Annotated, ClassVar

from pydantic import ValidationInfo, field_validator

from masklearn.base.errors import UsageError
from masklearn.base.option import Bounds
from masklearn.base.settings import Settings
from masklearn.choice.menu import named_types, only_two_four
from masklearn.options import DEFAULT_TILE, BytesPerWeight, LearnOptions, Ratio, Tile
from masklearn.quant.table import INT4, W8A8
from masklearn.traits import METHODS, Criterion, MethodTraits, Repair, Requires

_WINDOWS, _TOKENS_PER_INPUT = 32, 4


def usual_windows(widest: int, length: int) -> int:
    """Returns the number of windows of `length` tokens to calibrate on; widest: inputs of the widest linear.

    The solve of a linear fits the calibration tokens better than other text, the more so the fewer they are for an input.
    `Group.damping` has figures of 2.7 to 32 tokens; papers take 24. Every pass takes time for every token.
    """
    return max(_WINDOWS, -(-_TOKENS_PER_INPUT * widest // length))


class LearnSettings(Settings, LearnOptions):
    """All settings of learning but the amount of pruning and the size of tiles, checked together.

    No option sets the fields below; a recipe may. threads: of the CPU, None for what OMP_NUM_THREADS or the number of cores
    says, kept where it decides the last digits of the result (docs/explanation/learning.md). criterion: what `oneshot` and
    `sparsegpt` take for the cost of pruning a tile, None for the method's own; baselines take others. learning_rate: of
    training, None for the method's own.
    """

    threads: Annotated[int | None, Bounds(ge=1, le=1024)] = None
    criterion: Criterion | None = None
    learning_rate: Annotated[float | None, Bounds(gt=0.0)] = None
    CHOOSING_TYPES: ClassVar[str] = "Take `method` oneshot or sparsegpt, ranked by fisher, relative or raw"

    @property
    def traits(self) -> type[MethodTraits]:
        """Traits of the method."""
        return METHODS[self.method]

    def phases(self, *, loss: bool = True) -> tuple[str, ...]:
        """Returns the names of the phases of learning that take long, in their order, as `OnStep` gets them.

        loss: False for an encoder, which has no loss to be sensitive.
        """
        criterion = self.criterion or next(iter(self.traits.criteria), None)
        named = named_types(self.weights)
        # Where int4 may be chosen, inputs stay as they are.
        rounds_inputs = self.reads_text and W8A8 in named and INT4 not in named
        phases = {
            "smoothing": rounds_inputs,
            "ordering hidden channels": self.permute,
            "scoring": not self.traits.trains(),
            "sensitivity of the loss": loss and criterion is Criterion.FISHER,
            "solving": self.traits.solves,
            "learning masks": self.traits.trains(),
            "repair": self.repairs,
            "rounding": self.repairs and any(kind.quantised for kind in named),
            "scales": self.repairs and INT4 in named,
        }
        return tuple(name for name, comes in phases.items() if comes)

    @property
    def can_choose_types(self) -> bool:
        """True if the method's scores include what rounding loses."""
        ranks = self.criterion is None or Requires.INPUTS in self.criterion.needs
        return ranks and self.traits.solves and not self.traits.trains()

    @property
    def chooser(self) -> str:
        """The settings that decide if the method can choose weight types, as a user gives them."""
        return f"`method` {self.method}" + (f" `criterion` {self.criterion}" if self.criterion else "")

    def check_choice(self) -> None:
        """Raises UsageError for weight types that are to be chosen by a method whose scores do not include rounding."""
        if not self.can_choose_types:
            raise UsageError(
                f"{self.chooser} can't choose among the types of `weights` {self.weights}",
                "The loss of rounding is an output error, and here tiles are ranked by another criterion.",
                f"{self.CHOOSING_TYPES}; or name one type, such as int8.",
            )

    @property
    def repairs(self) -> bool:
        """True if the surviving weights are repaired, by the setting or by the method's default."""
        return (self.repair or self.traits.repair) is Repair.DISTILL

    @property
    def reads_text(self) -> bool:
        """True if learning reads calibration text."""
        return bool(self.traits.needs) or self.repairs or self.permute

    def calibration_windows(self, widest: int) -> int:
        """Returns the number of windows to calibrate on; widest: inputs of the widest linear."""
        return self.windows or usual_windows(widest, self.length)

    @property
    def trains(self) -> bool:
        """True if learning trains, and so needs more text than the calibration windows."""
        return self.repairs or self.traits.trains()

    @field_validator("kinds")
    @classmethod
    def _kinds_of_the_method(cls, kinds: str, info: ValidationInfo) -> str:
        method = info.data.get("method")
        if method is not None and METHODS[method].only_two_four and not only_two_four(kinds):
            raise ValueError(f"The method {method} learns 2:4 tiles only. oneshot learns all kinds.")
        return kinds

    @field_validator("repair_steps", "repair_minutes")
    @classmethod
    def _budget_of_a_repair(cls, budget: float | None, info: ValidationInfo) -> float | None:
        method, repair = info.data.get("method"), info.data.get("repair")
        if budget and method is not None and (repair or METHODS[method].repair) is Repair.NONE:
            raise ValueError(f"Nothing is repaired: `repair` is none{'' if repair else f' for {method}'}")
        return budget


class LearnRecipe(LearnSettings):
    """All settings of `learn`.

    ratio: zeroed weights / weights, 0 ... 0.5, or ratios by pattern such as `mlp.*=0.5,*.v_proj=0` (see `choice.goal`);
    bytes_per_weight: bytes of a 16-bit weight in packed slabs, on average over all covered linears, which the masks do not
    exceed. It replaces the ratio; None for the ratio.
    """

    tile: Tile = DEFAULT_TILE
    ratio: Ratio = 0.4
    bytes_per_weight: BytesPerWeight | None = None
