"""The grid of a quantised linear: its weight type and scales. Its weights are integers times scales, rounded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from masklearn.quant.table import W8A8, WeightType

_SCALE_BITS = 8  # significant bits of a bfloat16
_LEAST = np.float32(2.0**-24)  # the least number of float16 above 0; all its numbers are multiples of it
LARGEST_STORABLE = 65280.0  # the largest number of float16 with so few significant bits
# With a smaller scale, float16 would not tell neighbouring integers apart.
_LEAST_OF_A_ROW = np.float32(2.0**-23)
_CHUNK = 1 << 22  # weights whose numbers in fp32 are in memory at a time


Scale = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class StaticScales(BaseModel):
    """Static scales of a linear's activations: one scale for all tokens, known before the model runs.

    Standard graphs (QuantizeLinear, DequantizeLinear) and TensorRT's int8 tactics need them. The plugin takes a scale for
    each token instead, which loses less. Activations are integers -128 … 127 times a scale, which float16 and bfloat16 hold
    exactly.

    input: of X; output: of Y with its bias, None if Y stays in 16 bits because one scale would lose too much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Scale
    output: Scale | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    """Grid of a linear `[N, K]`.

    type: a quantised type; scales: fp32, finite, `[N]` for int8 and `[N, K/64]` for int4. The scales of int4 are
    all exact in float16, or all in bfloat16. Searched scales are exact in both (see `storable`); scales of a quantised
    checkpoint are numbers of its own type (see `fits`). Raises ValueError for others. activations: static scales of a linear
    of type w8a8; None if each token has its own scale.

    A negative scale turns the range of its weights around: there is one more integer below 0 than above it, so the largest
    weight of a span loses least if it is the lowest integer. The integer 0 is the weight +0 under a negative scale too.
    """

    type: WeightType
    scales: NDArray[np.float32]
    activations: StaticScales | None = None

    def __post_init__(self) -> None:
        if not self.type.quantised:
            raise ValueError(f"{self.type} has no scales")
        if self.activations is not None and self.type is not W8A8:
            raise ValueError(f"{self.type} has no scales of activations")
        dims = 1 if self.type.span is None else 2
        if self.scales.dtype != np.float32 or self.scales.ndim != dims:
            raise ValueError(f"scales {self.scales.dtype} {list(self.scales.shape)} of {self.type}")
        if not np.isfinite(self.scales).all():
            raise ValueError("a scale is not finite")
        if not self.fits("float16") and not self.fits("bfloat16"):
            raise ValueError(f"the scales of {self.type} are numbers of neither float16 nor bfloat16")

    def fits(self, dtype: str) -> bool:
        """Returns True if a graph of this type, float16 or bfloat16, holds the scales exactly. It holds int8 scales in
        fp32."""
        if self.type.span is None:
            return True
        import ml_dtypes

        with np.errstate(over="ignore"):
            held = self.scales.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
        return np.array_equal(held.astype(np.float32), self.scales)

    def check_shape(self, shape: tuple[int, int]) -> None:
        """Raises ValueError unless the scales fit a weight `[N, K]`."""
        needed = self.type.scales_shape(shape)
        if self.scales.shape != needed:
            raise ValueError(f"scales {list(self.scales.shape)}, a weight {list(shape)} needs {list(needed)}")

    def values(self, integers: NDArray[np.int8], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Returns the weights `[N, K]` of these integers in a floating-point type, each rounded once."""
        self.check_shape((integers.shape[0], integers.shape[1]))
        weight = np.empty(integers.shape, dtype)
        for rows in _chunks(integers.shape):
            weight[rows] = self._products(integers[rows], rows).astype(dtype)
        return weight

    def integers(self, weight: NDArray[Any]) -> NDArray[np.int8]:
        """Returns the integers of weights `[N, K]` of any floating-point type: the inverse of `values`.

        Raises ValueError if a weight is not on the grid.
        """
        self.check_shape((weight.shape[0], weight.shape[1]))
        integers = np.empty(weight.shape, np.int8)
        for rows in _chunks(weight.shape):
            part = weight[rows].astype(np.float32)
            scales = spread(self.scales[rows], part.shape[1])
            nearest = np.rint(np.divide(part, scales, out=np.zeros_like(part), where=scales != 0))
            inside = np.clip(np.nan_to_num(nearest), self.type.lowest, self.type.highest)
            integers[rows] = inside.astype(np.int8)
            off = self._products(integers[rows], rows).astype(weight.dtype) != weight[rows]
            if off.any():
                row, column = (int(at) for at in np.argwhere(off)[0])
                value, row = float(part[row, column]), row + rows.start
                raise ValueError(
                    f"the weight {value:g} in row {row}, column {column} is not on the grid of {self.type}"
                )
        return integers

    def _products(self, integers: NDArray[np.int8], rows: slice) -> NDArray[np.float32]:
        products: NDArray[np.float32] = integers.astype(np.float32)
        products *= spread(self.scales[rows], integers.shape[1])
        products += 0.0  # from -0 to +0
        return products


def spread(scales: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Returns scales `[N]` or `[N, K/span]` in a shape that broadcasts to weights `[N, K]`; columns: K."""
    if scales.ndim == 1:
        return scales[:, None]
    return np.repeat(scales, columns // max(1, scales.shape[1]), axis=1)


def storable(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the nearest finite numbers that float16 and bfloat16 both hold: of at most 8 significant bits.

    scales: finite. A scale that is not 0 does not become 0.
    """
    sizes = np.abs(scales)
    exponent = np.frexp(np.minimum(sizes, np.float32(LARGEST_STORABLE)))[1]
    # From a storable number to the next.
    step = np.maximum(np.ldexp(np.float32(1), exponent - _SCALE_BITS), _LEAST)
    rounded = np.clip(np.rint(sizes / step) * step, _LEAST, np.float32(LARGEST_STORABLE))
    stored: NDArray[np.float32] = (np.sign(scales) * rounded).astype(np.float32)
    return stored


def stored_scales(scales: NDArray[np.float32], kind: WeightType) -> NDArray[np.float32]:
    """Returns the nearest storable scales of searched scales. Scales that are not 0 do not become 0.

    A scale of int8 may be any fp32 number. It gets 16 bits where their range suffices, because other programs read
    compressed-tensors with scales in the type of the weights.
    """
    stored = storable(scales)
    if kind.span is not None:
        return stored
    sizes = np.where(np.abs(scales) <= LARGEST_STORABLE, np.abs(stored), np.abs(scales))
    return (np.sign(scales) * np.maximum(sizes, _LEAST_OF_A_ROW)).astype(np.float32)


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _CHUNK // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))
