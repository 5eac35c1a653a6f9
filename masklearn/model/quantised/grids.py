"""Grids of a checkpoint's quantised linears, each read when it is asked for."""

from collections.abc import Iterator, Mapping

from masklearn.model.quantised.base import PackedWeight
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType

__all__ = ["Grids"]

_END = ".weight"


class Grids(Mapping[str, Grid]):
    """Grids by linear (its checkpoint name without `.weight`). Scales of a 7B model in int4 take 200 MB."""

    def __init__(self, packed: Mapping[str, PackedWeight]) -> None:
        """packed: quantised weights by their names in the dense checkpoint."""
        self._packed = {name.removesuffix(_END): weight for name, weight in packed.items()}

    @property
    def types(self) -> dict[str, WeightType]:
        """Types of the linears, which are known without reading scales."""
        return {name: weight.type for name, weight in self._packed.items()}

    def __getitem__(self, linear: str) -> Grid:
        return self._packed[linear].grid()

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)
