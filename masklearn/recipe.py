"""The settings of mask learning, checked once."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from masklearn.errors import PatchCompileError
from masklearn.tiles import GROUP

__all__ = ["LearnRecipe", "Method"]

_Positive = Annotated[int, Field(ge=1)]


class Method(StrEnum):
    """How the 2:4 pattern and the tile scores are found; the key of the registry of methods."""

    MAGNITUDE = "magnitude"
    WANDA = "wanda"


class LearnRecipe(BaseModel):
    """What `learn` is asked for.

    method: see `Method`; ratio: zeroed weights / weights, 0 ... 0.5; tile: (rows, cols), cols a multiple of 4;
    include, exclude: patterns of `coverage`; calib: local .txt file or directory of them, for methods that use
    text, None for text that the model writes itself; windows, length: how many windows of how many tokens;
    seed: of their draw; device: where blocks run, None for a CUDA device when there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Method.WANDA
    ratio: float = 0.4
    tile: tuple[_Positive, _Positive] = (128, 128)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    calib: Path | None = None
    windows: _Positive = 64
    length: Annotated[int, Field(ge=2)] = 512
    seed: Annotated[int, Field(ge=0)] = 0
    device: str | None = None

    @field_validator("tile")
    @classmethod
    def _whole_groups(cls, tile: tuple[int, int]) -> tuple[int, int]:
        if tile[1] % GROUP:
            raise ValueError(f"the tile's columns must be a multiple of {GROUP}")
        return tile

    @field_validator("ratio")
    @classmethod
    def _possible(cls, ratio: float) -> float:
        if not 0.0 <= ratio <= 0.5:
            raise ValueError("it must lie in 0 ... 0.5: with every tile 2:4 half of the weights are zeroed")
        return ratio

    @classmethod
    def checked(cls, **settings: Any) -> "LearnRecipe":
        """Build a recipe from a user's settings; PatchCompileError names the setting that is wrong."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise PatchCompileError(
                "The settings of mask learning are wrong", _faults(error.errors()), "Correct them."
            ) from error


def _faults(errors: Sequence[Any]) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in errors)
