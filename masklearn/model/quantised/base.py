"""Base class of the formats, and their common result: a weight that is stored as integers and scales."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from masklearn.base.errors import MaskLearnError, reading
from masklearn.base.printable import shown
from masklearn.base.registry import Registry
from masklearn.base.shard import Shard, TensorEntry, numpy_dtype
from masklearn.model.folder import stated_dtype
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4, INT8, QUANTISED, WeightType

_FIX = (
    "Use the checkpoint that it was quantised from, and let `weights` int4, int8 or w8a8 quantise it; or a checkpoint that "
    "is quantised in a way that docs/howto/quantised-checkpoints.md lists."
)


def damaged(folder: Path, name: str, why: str) -> MaskLearnError:
    """Returns the error about a tensor or setting that no sound checkpoint has. name: of the tensor or setting."""
    return MaskLearnError(
        f"{name} in {folder} is not valid", why, "Fetch the checkpoint again from a source that you trust."
    )


def refused(folder: Path, name: str, why: str) -> MaskLearnError:
    """Returns the error about quantisation that is not supported. name: of the tensor or setting that shows it."""
    return MaskLearnError(f"{name} in {folder} is not read", why, _FIX)


class StoredTensors:
    """Tensors of a folder's shards by name, with checked reads.

    folder: the model folder, for errors; shards: file name in the folder to header.
    """

    def __init__(self, folder: Path, shards: Mapping[str, Shard]) -> None:
        self.folder = folder
        self._shards = shards
        self._file_of = {name: file for file, shard in shards.items() for name in shard.tensors}

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def modules(self, last: str) -> Iterator[str]:
        """Yield the names of all modules that have a tensor called `last`."""
        end = f".{last}"
        return (name.removesuffix(end) for name in self._file_of if name.endswith(end))

    def file_of(self, name: str) -> str:
        """Returns the name of the file in the folder that holds a tensor."""
        return self._file_of[name]

    def entry(self, name: str) -> TensorEntry:
        return self._shards[self._file_of[name]].tensors[name]

    def read(self, name: str) -> NDArray[Any]:
        return self._shards[self._file_of[name]].read(name)

    def need(self, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> TensorEntry:
        """Returns the entry of a tensor. shape: None for a length that is not known yet.

        Raises MaskLearnError if it is missing or of another type or shape.
        """
        if name not in self:
            raise damaged(self.folder, name, "It is missing, and the other tensors of its weight are there.")
        entry = self.entry(name)
        fits = len(entry.shape) == len(shape) and all(
            length is None or length == stored for length, stored in zip(shape, entry.shape, strict=True)
        )
        if entry.dtype not in dtypes or not fits:
            expected = f"{' or '.join(dtypes)} [{', '.join('…' if n is None else str(n) for n in shape)}]"
            raise damaged(
                self.folder, name, f"It is {entry.dtype} {list(entry.shape)}, and should be {expected}."
            )
        return entry

    def scales(self, name: str) -> NDArray[np.float32]:
        """Read scales as float32. Raises MaskLearnError if a scale is not finite."""
        scales = self.read(name).astype(np.float32)
        if not np.isfinite(scales).all():
            raise damaged(self.folder, name, "A scale is not finite.")
        return scales


def check_in_order(stored: StoredTensors, name: str, columns: int, groups: int) -> None:
    """Check that neighbours share their scales.

    Raises MaskLearnError if the index is damaged, and for columns that were put into groups by their activations
    (`desc_act`, act-order), which no grid of a mosaic can represent.
    """
    stored.need(name, ("I32", "I64"), (columns,))
    index = stored.read(name)
    if columns and not (int(index.min()) >= 0 and int(index.max()) < groups):
        raise damaged(stored.folder, name, f"It names a group that is not among its {groups}.")
    if not np.array_equal(index, np.arange(columns) // (columns // groups)):
        raise refused(
            stored.folder,
            name,
            "Its columns are grouped by their activations (desc_act, act-order); neighbours in order are read.",
        )


SCALES = ("F16", "BF16", "F32")
"""Types that scales may have."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight [N, K] that is stored as integers and scales.

    folder: the model folder, for errors; name: its name in a dense checkpoint; dtype: safetensors code of its values;
    bits: 4 or 8, of an integer; input_bits: 8 if the model rounds the inputs of the linear to int8 with a scale for each
    token, else 16; parts: the stored tensors, the integers first and the scales second; file: the file that
    holds the integers; integers: reads them, int8 [N, K]; scales: reads them, float32 [N, groups], each for
    K / groups neighbours in a row; zeros: reads the integers that stand for 0, int8 [N, groups], None if that is 0
    everywhere; floats: True if `integers` reads fp8 numbers, float8_e4m3fn [N, K]. No mosaic holds a grid with zero points
    or of fp8, so such a weight is only read: it has 16 bits then.
    """

    folder: Path
    name: str
    shape: tuple[int, int]
    dtype: str
    bits: int
    parts: tuple[str, ...]
    file: str
    integers: Callable[[], NDArray[Any]]
    scales: Callable[[], NDArray[np.float32]]
    zeros: Callable[[], NDArray[np.int8]] | None = None
    input_bits: int = 16
    floats: bool = False

    @property
    def has_grid(self) -> bool:
        """True if a mosaic can hold its grid."""
        return self.zeros is None and not self.floats

    @property
    def type(self) -> WeightType:
        stored = self.bits, self.input_bits
        return next(kind for kind in QUANTISED.values() if (kind.bits, kind.input_bits) == stored)

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
            raise refused(self.folder, self.parts[1], f"A mosaic can't hold it: {error}.") from error

    def values(self) -> NDArray[Any]:
        """Read the weight, in its dtype. Raises MaskLearnError as `grid` does, and if an integer is not valid."""
        dtype = numpy_dtype(self.dtype)
        with np.errstate(over="ignore"):  # whoever learns on infinity is told so by `Checkpoint.read_finite`
            if self.has_grid:
                return self.grid().values(self.integers(), dtype)
            scales = self.scales()
            grouped = self.integers().reshape(*scales.shape, -1).astype(np.float32)
            grouped -= 0 if self.zeros is None else self.zeros()[..., None]
            return np.asarray((grouped * scales[..., None]).astype(dtype).reshape(self.shape))


class FormatSettings(BaseModel):
    """Settings of a format, as config.json has them. Settings that are not read here may be anything."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


GroupSize = Literal[-1] | PositiveInt
"""Number of neighbours in a row that share a scale; -1 for the whole row."""


class Quantisation(ABC):
    """A format of quantised checkpoints.

    name: value of `quant_method` in config.json; summary: the supported part of the format, in one line; parsed_as: class of
    its settings, whose types say what is read.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    parsed_as: ClassVar[type[FormatSettings]]

    def settings(self, folder: Path, config: Mapping[str, Any]) -> FormatSettings:
        """Check the object `quantization_config` of a config.json.

        Raises MaskLearnError if it is damaged, or describes a way of quantising that is not read.
        """
        with reading(f"quantization_config in {folder}", _FIX, what="is not read"):
            return self.parsed_as.model_validate(dict(config))

    @abstractmethod
    def weights(self, stored: StoredTensors, settings: Any, dtype: str) -> Sequence[PackedWeight]:
        """Find the quantised weights, by the headers and small tensors. settings: result of `settings`.

        dtype: safetensors code of the model's dense weights. Raises MaskLearnError as `settings` does.
        """


QUANTISATIONS: Registry[Quantisation] = Registry("masklearn.model.quantised.formats")


def check_groups(folder: Path, name: str, shape: tuple[int, int], bits: int, groups: int) -> None:
    """Raises MaskLearnError if a mosaic can't hold a weight's grid.

    name: of the scales; shape: [N, K]; groups: number of scales of a row. An int8 grid has a scale for each row, an
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


_END = ".weight"


class Grids(Mapping[str, Grid]):
    """Grids by linear (its checkpoint name without `.weight`), of linears with integers and no zero points. Scales of a 7B
    model in int4 take 200 MB."""

    def __init__(self, packed: Mapping[str, PackedWeight]) -> None:
        """packed: quantised weights by their names in the dense checkpoint."""
        self._packed = {name.removesuffix(_END): weight for name, weight in packed.items() if weight.has_grid}

    @property
    def types(self) -> dict[str, WeightType]:
        """Types of the linears, which are known without reading scales."""
        return {name: weight.type for name, weight in self._packed.items()}

    def of_type(self, kind: WeightType) -> list[str]:
        return [name for name, weight_type in self.types.items() if weight_type is kind]

    def __getitem__(self, linear: str) -> Grid:
        return self._packed[linear].grid()

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


_KEYS = ("quantization_config", "compression_config")  # early compressed-tensors writes the second


def dense_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the object of a config.json without the settings of quantisation."""
    return {key: value for key, value in config.items() if key not in _KEYS}


def find_packed(
    folder: Path, config: Mapping[str, Any], shards: Mapping[str, Shard]
) -> dict[str, PackedWeight]:
    """Returns the quantised weights by their names in a dense checkpoint, none for a dense checkpoint.

    config: the object in config.json; shards: file name in the folder to header. Raises MaskLearnError for a checkpoint that
    is damaged, or quantised in a way that is not read.
    """
    if (stated := _stated(folder, config)) is None:
        return {}
    key, kind, settings = stated
    stored = StoredTensors(folder, shards)
    dtype = stated_dtype(config) or "F32"
    packed = {weight.name: weight for weight in kind.weights(stored, settings, dtype)}
    hidden = {part for weight in packed.values() for part in weight.parts}
    for name in packed:
        if name in stored and name not in hidden:
            raise damaged(folder, name, "It is stored twice, as integers and as it is.")
    if not packed:
        raise damaged(folder, key, f"It says {kind.name}, but no tensor is quantised so.")
    return packed


def describe_packed(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], dtype: str
) -> dict[str, PackedWeight]:
    """Returns the weights of a quantised checkpoint that only its config.json describes; none can be read.

    shapes: the weights that the format quantises: the linears of the blocks; dtype: of their values. Raises MaskLearnError
    for a way of quantising that is not read, and if only the headers tell which linears keep their grids.
    """
    if (stated := _stated(folder, config)) is None:
        return {}
    key, _, settings = stated
    bits, size = getattr(settings, "bits", None), getattr(settings, "group_size", -1)
    zeros = bool(getattr(settings, "zero_point", False))
    some = any(config[key].get(name) for name in ("modules_to_not_convert", "dynamic"))
    if bits is None or (some and not zeros):  # with zero points all weights have 16 bits
        raise MaskLearnError(
            f"{folder / 'config.json'} describes a quantised model, and the folder has no weights",
            "The headers of its *.safetensors tell which linears are quantised.",
            "Put the weights next to it, or take quantization_config out of it and give `weights`.",
        )

    def unread() -> Any:
        raise MaskLearnError(f"{folder} has no weights", "Only config.json is there.", "Fetch the weights.")

    for name, (n, k) in shapes.items():
        check_said_groups(folder, name, (n, k), bits, 1 if size == -1 else -(-k // size), size)
    return {
        name: PackedWeight(
            folder,
            name,
            shape,
            dtype,
            bits,
            (name,),
            "config.json",
            unread,
            unread,
            unread if zeros else None,
        )
        for name, shape in shapes.items()
    }


def _stated(folder: Path, config: Mapping[str, Any]) -> tuple[str, Quantisation, FormatSettings] | None:
    """Returns the setting of config.json about quantisation: its name, the format and the checked settings; None without
    it."""
    key = next((key for key in _KEYS if config.get(key) is not None), None)
    if key is None:
        return None
    about = config[key]
    if not isinstance(about, dict):
        raise damaged(folder, f"{key} = {shown(about)}", "It is not an object.")
    method = about.get("quant_method", "compressed-tensors" if key == _KEYS[1] else None)
    if not isinstance(method, str) or method not in QUANTISATIONS:
        known = "; ".join(f"{name} ({kind.summary})" for name, kind in QUANTISATIONS.items())
        raise refused(folder, f"{key}.quant_method = {shown(method)}", f"Read are {known}.")
    kind = QUANTISATIONS[method]()
    return key, kind, kind.settings(folder, about)
