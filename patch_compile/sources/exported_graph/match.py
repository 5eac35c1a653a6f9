"""Tells which linears of a checkpoint the products of an exported graph compute, by the numbers of their weights.

One weight is in memory at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.model.prune import masked_weight
from patch_compile.artifacts.plan import ReasonKind
from patch_compile.onnx_io.tensor_names import torch_scopes
from patch_compile.onnx_io.write import cast_weight, lazy_tensor, read_weight
from patch_compile.passes.find_linears import PASSED_ON
from patch_compile.passes.linears import FoundLinears, Linear
from patch_compile.passes.lowering.substitute_linears import LinearRows, Product

if TYPE_CHECKING:
    import onnx_ir as ir

    from masklearn.masks.linear_mask import LinearMask
    from masklearn.model.checkpoint import Checkpoint

_PRODUCTS = ("MatMul", "Gemm")
_MATRIX_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16")


class Origin(StrEnum):
    """The model whose numbers a weight of the graph has."""

    MODEL = "model"  # the model as it was given
    PRUNED = "pruned"  # the same under its masks, or the pruned model that belongs to the masks


@dataclass(frozen=True)
class KnownWeight:
    """A weight `[rows, K]` of a checkpoint in the type of the graph. digest: sha256 of all of its bytes, row by row."""

    name: str
    rows: int
    digest: bytes
    origin: Origin


class WeightIndex:
    """Weights of a checkpoint by K and their first row, in one type. widths: the K of all of them."""

    def __init__(self, known: Mapping[tuple[int, bytes], list[KnownWeight]]) -> None:
        self._known = known
        self.widths = {k for k, _ in known}

    @classmethod
    def of(
        cls,
        names: Mapping[str, tuple[int, int]],
        model: Checkpoint,
        pruned: Checkpoint,
        masks: Mapping[str, LinearMask],
        dtype: ir.DataType,
    ) -> WeightIndex:
        """Read each linear of `names` once. pruned: the checkpoint whose weights the masks prune; may be the model itself.

        Raises PatchCompileError for a weight that does not fit `dtype`.
        """
        known: dict[tuple[int, bytes], list[KnownWeight]] = {}
        for name in names:
            for origin, weight in _forms(name, model, pruned, masks, dtype):
                digest = _digest(weight)
                same_row = known.setdefault((weight.shape[1], _digest(weight[:1])), [])
                # Without zeros to set, the model and its pruned form have the same digest.
                if all((entry.name, entry.digest) != (name, digest) for entry in same_row):
                    same_row.append(KnownWeight(name, len(weight), digest, origin))
        return cls(known)

    def rows_of(self, weight: NDArray[Any]) -> list[tuple[KnownWeight, ...]]:
        """Returns the weights that are stacked in `weight` `[N, K]`, each with all others that have the same numbers.

        The result is empty if any row belongs to no weight.
        """
        stacked: list[tuple[KnownWeight, ...]] = []
        start = 0
        while start < len(weight):
            same_row = self._known.get((weight.shape[1], _digest(weight[start : start + 1])), [])
            heights = {entry.rows for entry in same_row if start + entry.rows <= len(weight)}
            for rows in sorted(heights, reverse=True):
                digest = _digest(weight[start : start + rows])
                if same := tuple(w for w in same_row if w.rows == rows and w.digest == digest):
                    stacked.append(same)
                    start += rows
                    break
            else:
                return []
        return stacked


def _forms(
    name: str,
    model: Checkpoint,
    pruned: Checkpoint,
    masks: Mapping[str, LinearMask],
    dtype: ir.DataType,
) -> Iterator[tuple[Origin, NDArray[Any]]]:
    """Yield the weight `[N, K]` of a linear as an exporter may have found it."""
    tensor = f"{name}.weight"
    weight = read_weight(model, tensor, dtype)
    yield Origin.MODEL, weight
    if pruned is not model:
        weight = read_weight(pruned, tensor, dtype)
    if name in masks:
        yield Origin.PRUNED, masked_weight(weight, masks[name].keep())


def _digest(weight: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(weight).view(np.uint8).data).digest()


IndexOf = Callable[["ir.DataType"], WeightIndex]


@dataclass(frozen=True)
class HeldWeights:
    """An initializer that holds weights of the checkpoint. transposed: it is [K, N] and not [N, K]."""

    value: ir.Value
    transposed: bool
    parts: tuple[LinearRows, ...]

    @classmethod
    def of(cls, product: Product) -> HeldWeights:
        """Returns the initializer of a product's weight."""
        return cls(product.linear.weight, product.linear.transposed, product.parts)


@dataclass
class Matches:
    """Result of the search.

    products: products that can be compiled, in graph order; in_place: initializers that more than one product reads, of
    which only the values are masked; refused: linears that are not compiled, with the reason; origins: number of weights by
    the model whose numbers they have; like_shaped: number of weights that have a linear's shape and other numbers.
    """

    products: list[Product] = field(default_factory=list)
    in_place: list[HeldWeights] = field(default_factory=list)
    refused: dict[str, ReasonKind] = field(default_factory=dict)
    origins: Counter[Origin] = field(default_factory=Counter)
    like_shaped: int = 0

    @property
    def found(self) -> set[str]:
        """Names of the linears that are in the graph."""
        return {part.name for stored in self.stored() for part in stored.parts}

    def stored(self) -> Iterator[HeldWeights]:
        """Yield all initializers that hold weights of the checkpoint."""
        yield from (HeldWeights.of(product) for product in self.products)
        yield from self.in_place


def match_linears(
    graph: ir.Graph,
    found: FoundLinears,
    linears: Mapping[str, tuple[int, int]],
    covered: Collection[str],
    index_of: IndexOf,
) -> Matches:
    """Find linears of a checkpoint in a graph.

    1. A product's weight, in either layout, must be the weight of one linear or of several linears below each other, bit for
       bit.
    2. Where several linears have the same numbers, the names in the graph decide; if they can't, none of these linears is
       matched.
    3. A linear with two products, which read one or two initializers, keeps them, and its weight is masked in place.

    linears: all linears of the checkpoint with (N, K); covered: those with a mask; index_of: weights in a type of the graph.
    """
    matches, shapes = Matches(), {*linears.values()}
    products: list[Product] = []
    for linear in found.linears.values():
        index = None if linear.spatial else _index(linear.weight, linear.shape[1], index_of)
        if index is None:
            continue
        parts = _parts(matches, index, _weight(linear.weight, linear.transposed), _words(linear), covered)
        if parts:
            products.append(Product(linear, parts))
        else:
            matches.like_shaped += linear.shape in shapes
    times = Counter(name for product in products for name in product.names)
    for product in products:
        if any(times[name] > 1 for name in product.names):
            _keep_in_place(matches, HeldWeights.of(product), covered)
        else:
            matches.products.append(product)
    _find_shared(graph, {linear.weight for linear in found.linears.values()}, matches, covered, index_of)
    for name in covered:
        if name not in matches.found:
            matches.refused.setdefault(name, ReasonKind.NOT_IN_GRAPH)
    return matches


def _find_shared(
    graph: ir.Graph,
    known: Collection[ir.Value],
    matches: Matches,
    covered: Collection[str],
    index_of: IndexOf,
) -> None:
    """Look for weights that are not read by exactly one product."""
    for value in graph.initializers.values():
        shape = () if value.shape is None else value.shape.numpy()
        if value in known or len(shape) != 2:
            continue
        for transposed in (False, True):
            index = _index(value, shape[0 if transposed else 1], index_of)
            parts = index and _parts(matches, index, _weight(value, transposed), [str(value.name)], covered)
            if not parts:
                continue
            if all(op_type in _PRODUCTS for op_type in _readers(value)):
                _keep_in_place(matches, HeldWeights(value, transposed, parts), covered)
            else:  # it is an embedding too, which is not pruned
                matches.refused.update(
                    (part.name, ReasonKind.READ_OTHERWISE) for part in parts if part.name in covered
                )
            break


def _keep_in_place(matches: Matches, stored: HeldWeights, covered: Collection[str]) -> None:
    matches.in_place.append(stored)
    matches.refused.update(
        (part.name, ReasonKind.READ_TWICE) for part in stored.parts if part.name in covered
    )


def _index(value: ir.Value, k: int, index_of: IndexOf) -> WeightIndex | None:
    if value.dtype is None or value.dtype.name not in _MATRIX_TYPES or value.const_value is None:
        return None
    index = index_of(value.dtype)
    return index if k in index.widths else None


def _weight(value: ir.Value, transposed: bool) -> NDArray[Any]:
    """Returns the stored weight as [N, K]. Only its first rows are read if these belong to no linear."""
    assert value.const_value is not None
    stored = value.const_value.numpy()
    return stored.T if transposed else stored


def _parts(
    matches: Matches, index: WeightIndex, weight: NDArray[Any], words: Sequence[str], covered: Collection[str]
) -> tuple[LinearRows, ...]:
    """Returns the linears whose weights make up `weight`, or nothing if that is unknown."""
    parts: list[LinearRows] = []
    origins: list[Origin] = []
    start = 0
    for same in index.rows_of(weight):
        chosen = _chosen(same, words)
        if chosen is None:
            matches.refused.update((one.name, ReasonKind.ALIKE) for one in same if one.name in covered)
            return ()
        parts.append(LinearRows(chosen.name, start, chosen.rows))
        origins.append(chosen.origin)
        start += chosen.rows
    matches.origins.update(origins)
    return tuple(parts)


def _chosen(same: Sequence[KnownWeight], words: Sequence[str]) -> KnownWeight | None:
    """Returns the weight, among equal weights, whose name is nearest to the words; None if two are equally near."""
    if len({one.name for one in same}) == 1:
        return same[0]
    tokens = {token for word in words for token in _tokens(word)}
    nearness = {one: sum(token in tokens for token in _tokens(one.name)) for one in same}
    best = [one for one in same if nearness[one] == max(nearness.values())]
    return best[0] if len(best) == 1 else None


def _tokens(name: str) -> list[str]:
    """Returns the parts of a path, with the number of a layer kept after its word: `layers.3` and `q_proj`."""
    parts = [part for part in re.split(r"[./]", name) if part]
    numbered = [f"{a}.{b}" for a, b in pairwise(parts) if b.isdigit()]
    return [*numbered, *(part for part in parts if not part.isdigit())]


def _words(linear: Linear) -> list[str]:
    """Returns all that the graph says about the place of a product in the model."""
    product = linear.nodes[0]
    return [str(linear.weight.name), str(product.name), linear.name, *torch_scopes(product)]


def _readers(value: ir.Value) -> Iterator[str]:
    for use in value.uses():
        if use.node.op_type in PASSED_ON:
            yield from _readers(use.node.outputs[0])
        else:
            yield use.node.op_type


def masked_of(checkpoint: Checkpoint, name: str, masks: Mapping[str, LinearMask]) -> NDArray[Any]:
    """Returns W∘M of a linear, in the checkpoint's type; W if it has no mask."""
    weight = read_weight(checkpoint, f"{name}.weight", None)
    return masked_weight(weight, masks[name].keep()) if name in masks else weight


def mask_in_place(stored: HeldWeights, checkpoint: Checkpoint, masks: Mapping[str, LinearMask]) -> None:
    """Give an initializer the masked weights of its linears. They are read when it is written."""
    before, dtype = stored.value.const_value, stored.value.dtype
    parts = [part for part in stored.parts if part.name in masks]
    if before is None or dtype is None or not parts:
        return

    def make() -> NDArray[Any]:
        array = np.array(before.numpy())
        rows = array.T if stored.transposed else array  # a view
        for part in parts:
            rows[part.slice] = cast_weight(
                f"{part.name}.weight", masked_of(checkpoint, part.name, masks), dtype
            )
        return array

    name, shape = str(stored.value.name), before.shape.numpy()
    stored.value.const_value = lazy_tensor(name, shape, dtype, make)
