"""Base class of the formats, and what they all come to: a weight that is stored as integers and scales."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from masklearn.base.printable import shown
from masklearn.base.registry import Registry
from masklearn.base.shard import numpy_dtype
from masklearn.model.quantised.errors import damaged, refused
from masklearn.model.quantised.stored import StoredTensors
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4, INT8, WeightType

__all__ = [
    "QUANTISATIONS",
    "SCALES",
    "FormatSettings",
    "PackedWeight",
    "Quantisation",
    "check_group_size",
    "check_groups",
    "check_said_groups",
    "dense_dtype",
    "nibbles",
    "parse_settings",
    "signed",
]

SCALES = ("F16", "BF16", "F32")
"""Types that scales may have."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight [N, K] that is stored as integers and scales.

    folder: the model folder, for errors; name: its name in a dense checkpoint; dtype: safetensors code of its values;
    bits: 4 or 8, of an integer; parts: the stored tensors, the integers first and the scales second; file: the file that
    holds the integers; integers: reads them, int8 [N, K]; scales: reads them, float32 [N, groups], of which each is for
    K / groups neighbours in a row.
    """

    folder: Path
    name: str
    shape: tuple[int, int]
    dtype: str
    bits: int
    parts: tuple[str, ...]
    file: str
    integers: Callable[[], NDArray[np.int8]]
    scales: Callable[[], NDArray[np.float32]]

    @property
    def type(self) -> WeightType:
        return INT8 if self.bits == INT8.bits else INT4

    def grid(self) -> Grid:
        """Read the grid that the weight lies on. A scale of several slabs is repeated.

        Raises MaskLearnError if a scale or a zero point is not valid or not read.
        """
        scales, kind = self.scales(), self.type
        needed = kind.scales_shape(self.shape)
        spread = scales[:, 0] if len(needed) == 1 else np.repeat(scales, needed[1] // scales.shape[1], axis=1)
        try:
            return Grid(kind, np.ascontiguousarray(spread))
        except ValueError as error:
            raise refused(self.folder, self.parts[1], f"It holds what a mosaic does not: {error}.") from error

    def values(self) -> NDArray[Any]:
        """Read the weight, in its dtype. Raises MaskLearnError as `grid` does, and if an integer is not valid."""
        grid = self.grid()
        with np.errstate(over="ignore"):  # whoever learns on infinity is told so by `Checkpoint.read_finite`
            return grid.values(self.integers(), numpy_dtype(self.dtype))


class FormatSettings(BaseModel):
    """Settings of a format, as config.json has them. Settings that are not read here may be anything."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class Quantisation(ABC):
    """A format of quantised checkpoints.

    name: value of `quant_method` in config.json; summary: what is read of it, in one line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def settings(self, folder: Path, config: Mapping[str, Any]) -> FormatSettings:
        """Check the object `quantization_config` of a config.json.

        Raises MaskLearnError if it is damaged, or describes a way of quantising that is not read.
        """

    @abstractmethod
    def weights(self, stored: StoredTensors, settings: Any, dtype: str) -> Sequence[PackedWeight]:
        """Find the quantised weights, by the headers and small tensors. settings: those that `settings` returned.

        dtype: safetensors code of the model's dense weights. Raises MaskLearnError as `settings` does.
        """


QUANTISATIONS: Registry[Quantisation] = Registry("masklearn.model.quantised.formats")

_Settings = TypeVar("_Settings", bound=FormatSettings)


def parse_settings(kind: type[_Settings], folder: Path, config: Mapping[str, Any]) -> _Settings:
    """Check the types of a format's settings. Raises MaskLearnError for the first wrong one."""
    try:
        return kind.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in ("quantization_config", *first["loc"]))
        raise damaged(folder, f"{place} = {shown(first['input'])}", f"{first['msg']}.") from error


def check_groups(folder: Path, name: str, shape: tuple[int, int], bits: int, groups: int) -> None:
    """Raises MaskLearnError if a weight's grid is none that a mosaic holds.

    name: that of the scales; shape: [N, K]; groups: number of scales of a row. An int8 grid has a scale for each row, an
    int4 grid for each 64 columns of a row.
    """
    n, k = shape
    if not n or not k or not groups or k % groups:
        raise damaged(folder, name, f"It has {groups} groups for the {k} columns of a row.")
    if bits == INT8.bits and groups > 1:
        raise refused(
            folder, name, f"It has a scale for every {k // groups} int8 weights; int8 has one for each row."
        )
    if bits == INT4.bits and (k // groups) % (INT4.span or k):
        raise refused(
            folder,
            name,
            f"It has a scale for every {k // groups} of {k} int4 weights of a row; multiples of {INT4.span} are read.",
        )


def check_group_size(folder: Path, size: int) -> None:
    """Raises MaskLearnError for a `group_size` that is neither -1, one group for a whole row, nor positive."""
    if size != -1 and size < 1:
        raise damaged(folder, "quantization_config.group_size", f"It is {size}.")


def check_said_groups(
    folder: Path, name: str, shape: tuple[int, int], bits: int, groups: int, size: int
) -> None:
    """Raises MaskLearnError if a weight has other groups than its `group_size` says, and as `check_groups` does."""
    k = shape[1]
    size = k if size == -1 else size
    if not k or groups != -(-k // size):
        raise damaged(folder, name, f"It has {groups} groups for {k} columns in groups of {size}.")
    check_groups(folder, name, shape, bits, groups)


def signed(fields: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """Returns the integers of fields that hold them plus 2^(bits-1)."""
    return fields.view(np.int8) - np.int8(8) if bits == INT4.bits else (fields ^ 128).view(np.int8)


def dense_dtype(scales: str, model: str) -> str:
    """Returns the safetensors code of dequantised values.

    scales: code of the scales' type; it is theirs if it has 16 bits, as in the libraries that write these formats. model:
    code of the model's dense weights.
    """
    return model if scales == "F32" else scales


def nibbles(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Returns the eight nibbles of each word, the lowest first, on a new last axis."""
    raw = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 4)
    return np.stack((raw & 15, raw >> 4), axis=-1).reshape(*words.shape, 8)
