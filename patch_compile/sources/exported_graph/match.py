"""Tells which linears of a checkpoint the products of an exported graph compute."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from patch_compile.artifacts.plan import ReasonKind
from patch_compile.onnx_io.torch_scopes import torch_scopes
from patch_compile.sources.exported_graph.digests import KnownWeight, Origin, WeightIndex
from patch_compile.sources.onnx_model.constants import PASSED_ON
from patch_compile.sources.onnx_model.linears import FoundLinears, OnnxLinear

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["HeldWeights", "LinearRows", "Matches", "Product", "match_linears"]

IndexOf = Callable[["ir.DataType"], WeightIndex]
_PRODUCTS = ("MatMul", "Gemm")
_MATRIX_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16")


@dataclass(frozen=True)
class LinearRows:
    """Rows `start … start + rows` of a product's weight, which are the weight of one linear of the checkpoint."""

    name: str
    start: int
    rows: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.rows)


@dataclass(frozen=True)
class HeldWeights:
    """An initializer that holds weights of the checkpoint. transposed: it is [K, N] and not [N, K]."""

    value: ir.Value
    transposed: bool
    parts: tuple[LinearRows, ...]


@dataclass(frozen=True)
class Product:
    """A product of the graph with the linears that it computes, one below the other in its weight."""

    linear: OnnxLinear
    parts: tuple[LinearRows, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def stored(self) -> HeldWeights:
        """Returns the initializer of its weight."""
        return HeldWeights(self.linear.weight, self.linear.transposed, self.parts)


@dataclass
class Matches:
    """Result of the search.

    products: those that can be compiled, in graph order; in_place: initializers that more than one product reads, whose
    values alone are masked; refused: linears that are not compiled, with the reason; origins: number of weights by the model
    whose numbers they have; like_shaped: number of weights that have a linear's shape and other numbers.
    """

    products: list[Product] = field(default_factory=list)
    in_place: list[HeldWeights] = field(default_factory=list)
    refused: dict[str, ReasonKind] = field(default_factory=dict)
    origins: Counter[Origin] = field(default_factory=Counter)
    like_shaped: int = 0

    @property
    def found(self) -> set[str]:
        """Names of the linears that are in the graph."""
        return {part.name for stored in self._stored() for part in stored.parts}

    def _stored(self) -> Iterator[HeldWeights]:
        yield from (product.stored for product in self.products)
        yield from self.in_place


def match_linears(
    graph: ir.Graph,
    found: FoundLinears,
    linears: Mapping[str, tuple[int, int]],
    covered: Collection[str],
    index_of: IndexOf,
) -> Matches:
    """Find linears of a checkpoint in a graph.

    1. A product's weight, in either layout, must be one linear's weight or several below each other, bit for bit.
    2. Where several linears have the same numbers, the names in the graph decide; if they don't, none of these is taken.
    3. A linear with two products, of one initializer or of two, keeps them, and its weight is masked in place.

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
            _keep_in_place(matches, product.stored, covered)
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
    return index if index.may_hold(k) else None


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
    """Returns the one of several equal weights whose name is nearest to the words, None if two are equally near."""
    if len({one.name for one in same}) == 1:
        return same[0]
    tokens = {token for word in words for token in _tokens(word)}
    nearness = {one: sum(token in tokens for token in _tokens(one.name)) for one in same}
    best = [one for one in same if nearness[one] == max(nearness.values())]
    return best[0] if len(best) == 1 else None


def _tokens(name: str) -> list[str]:
    """Returns the parts of a path, with the number of a layer beside what it numbers: `layers.3` and `q_proj`."""
    parts = [part for part in re.split(r"[./]", name) if part]
    numbered = [f"{a}.{b}" for a, b in pairwise(parts) if b.isdigit()]
    return [*numbered, *(part for part in parts if not part.isdigit())]


def _words(linear: OnnxLinear) -> list[str]:
    """Returns all that the graph says about the place of a product in the model."""
    product = linear.nodes[0]
    return [str(linear.weight.name), str(product.name), linear.name, *torch_scopes(product)]


def _readers(value: ir.Value) -> Iterator[str]:
    for use in value.uses():
        if use.node.op_type in PASSED_ON:
            yield from _readers(use.node.outputs[0])
        else:
            yield use.node.op_type
