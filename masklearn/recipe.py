"""The settings of mask learning, checked once."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from masklearn.masks.budget import parse_ratio
from masklearn.masks.names import parse_pattern
from masklearn.masks.tile_text import parse_tile
from masklearn.masks.tiles import GROUP
from masklearn.settings import Settings
from masklearn.traits import METHODS, Criterion, MethodTraits, Repair

__all__ = ["Criterion", "LearnRecipe", "LearnSettings", "Pattern", "Ratio", "Repair", "Tile"]

_Positive = Annotated[int, Field(ge=1)]
Pattern = Annotated[str, AfterValidator(parse_pattern)]

# Zeroed weights / weights, or ratios by pattern; "0.4" becomes 0.4.
Ratio = Annotated[float | str, AfterValidator(parse_ratio)]


def _tile(value: Any) -> Any:
    return parse_tile(value) if isinstance(value, str) else value


# (rows, columns), or as it is spelled: "128x128".
Tile = Annotated[tuple[_Positive, _Positive], BeforeValidator(_tile)]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"The methods are {', '.join(METHODS)}.")
    return name


class LearnSettings(Settings):
    """All settings of learning but the ratio, which a build may take from a masks file.

    method: one of `METHODS`; per_layer: every linear has the ratio, instead of all together; tile: (rows, cols), cols
    a multiple of 4; include, exclude: patterns of `masks.names`; calib: text of `masklearn.text`, None for text that
    the model writes itself; windows, length: how many windows of how many tokens; seed: of everything drawn;
    device: where the model runs, None for a CUDA device when there is one.

    criterion: see `Criterion`, None for the method's own; damping: of the Hessian, share of its mean diagonal.
    repair: see `Repair`, None for the method's own; repair_steps, repair_minutes: its budget, whichever ends
    first; batch: windows in a step of training; learning_rate: None for the method's own;
    label_weight: of the cross-entropy of the text's own tokens beside the divergence, in repair.
    permute: hidden channels of feed-forward parts are reordered first (see `permute`).
    prior, steps, distill_weight, checkpoint_every: of methods that train masks: one-shot method or masks file to
    start from, steps, weight of the KL to the dense logits beside the language model's loss, steps between
    checkpoints (of repair too). precision: of all training, and of the passes of methods that solve weights;
    gradient_checkpointing: of all training.
    """

    method: Annotated[str, AfterValidator(_known_method)] = "oneshot"
    per_layer: bool = False
    tile: Tile = (128, 128)
    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    calib: str | None = None
    windows: _Positive = 32
    length: Annotated[int, Field(ge=2)] = 512
    seed: Annotated[int, Field(ge=0)] = 0
    device: str | None = None
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
        """What is known of the method."""
        return METHODS[self.method]

    @property
    def repairs(self) -> bool:
        """True when the surviving weights are repaired: as asked, else as the method does by default."""
        return (self.repair or self.traits.repair) is Repair.DISTILL

    @property
    def trains(self) -> bool:
        """True when text beyond the calibration windows is wanted."""
        return self.repairs or self.traits.trains()

    @field_validator("tile")
    @classmethod
    def _whole_groups(cls, tile: tuple[int, int]) -> tuple[int, int]:
        if tile[1] % GROUP:
            raise ValueError(f"The columns of a tile are a multiple of {GROUP}.")
        return tile


class LearnRecipe(LearnSettings):
    """What `learn` is asked for: the settings, and the budget.

    ratio: zeroed weights / weights, 0 ... 0.5, or ratios by pattern such as `mlp.*=0.5,*.v_proj=0` (see `budget`).
    """

    ratio: Ratio = 0.4
