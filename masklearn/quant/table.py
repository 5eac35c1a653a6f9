"""The table of weight types. Everything that depends on the type of a linear's weights asks it.

| name | stored as | scales |
|---|---|---|
| float16, bfloat16 | themselves | none |
| int8 | integers -128 … 127 | one fp32 number per row |
| w8a8 | as int8 | as int8; the inputs are rounded to int8 too, with an fp32 scale for each token, or one for all |
| int4 | integers -8 … 7 | one 16-bit number per row and 64 columns |

The inputs of all other types have 16 bits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_MOST_OF_INT32 = 131072  # 2^17 · 127 · 128 < 2^31


@dataclass(frozen=True)
class WeightType:
    """One type of weights.

    name: value on the command line and in files; bits: of a stored weight; span: columns of a row that share a scale, None
    for all of them; scale_bits: bits of a stored scale of a span, 0 for a scale of a whole row, which `row_bytes` counts;
    input_bits: of an input that is multiplied by the weights.
    """

    name: str
    bits: int
    span: int | None = None
    scale_bits: int = 0
    input_bits: int = 16

    @property
    def quantised(self) -> bool:
        return self.bits < 16

    @property
    def widened(self) -> bool:
        """True for integers that become 16-bit values before they are multiplied."""
        return self.quantised and self.input_bits == 16

    @property
    def lowest(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def scale_bytes(self) -> float:
        """Bytes of scales per weight of the dense matrix. The scales of int8, 4 bytes a row, do not count."""
        return 0.0 if self.span is None else self.scale_bits / 8 / self.span

    @property
    def row_bytes(self) -> int:
        """Bytes of scales per row of the dense matrix, which `scale_bytes` does not count."""
        return 4 if self.quantised and self.span is None else 0

    def fits(self, columns: int) -> bool:
        """True if the spans of the scales divide `columns` (K), and sums over K of products of integers fit int32."""
        return (self.span is None or columns % self.span == 0) and columns <= self.most_columns

    @property
    def most_columns(self) -> float:
        return _MOST_OF_INT32 if self.input_bits == 8 else math.inf

    def scales_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        """Returns the shape of the scales of a weight `[N, K]`: `[N]` or `[N, K/span]`.

        Raises ValueError for a type without scales, and if the type does not fit K.
        """
        rows, columns = shape
        if not self.quantised:
            raise ValueError(f"{self} has no scales")
        if columns > self.most_columns:
            raise ValueError(f"{self} needs K to be at most {self.most_columns}, it is {columns}")
        if self.span is None:
            return (rows,)
        if not self.fits(columns):
            raise ValueError(f"{self} needs K to be a multiple of {self.span}, it is {columns}")
        return rows, columns // self.span

    def __str__(self) -> str:
        return self.name


FLOAT16 = WeightType("float16", 16)
BFLOAT16 = WeightType("bfloat16", 16)
INT8 = WeightType("int8", 8)
W8A8 = WeightType("w8a8", 8, input_bits=8)
INT4 = WeightType("int4", 4, 64, 16)

WEIGHT_TYPES: Mapping[str, WeightType] = MappingProxyType(
    {one.name: one for one in (FLOAT16, BFLOAT16, INT8, W8A8, INT4)}
)

QUANTISED: Mapping[str, WeightType] = MappingProxyType(
    {name: one for name, one in WEIGHT_TYPES.items() if one.quantised}
)
"""Types that are integers with scales, by name."""


def weight_type(name: str) -> WeightType:
    """Returns the type with this name. Raises a ValueError of one line for another name."""
    try:
        return WEIGHT_TYPES[name]
    except KeyError:
        raise ValueError(
            f"There is no weight type {name!r}. The types are {', '.join(WEIGHT_TYPES)}."
        ) from None


def with_rounded_inputs(types: Mapping[str, WeightType]) -> list[str]:
    """Returns the linears whose inputs are rounded to 8 bits; types: by linear."""
    return [name for name, kind in types.items() if kind.input_bits == W8A8.input_bits]
