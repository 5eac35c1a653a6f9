"""Random mosaics through packing, the ONNX function's body and the kernels: `python -m tests.fuzz.mosaic SEED …`.

A seed decides everything: shapes that are no multiples of tiles, panels or slabs; tile maps with rows and columns of one
kind; linears alone, a gate with its up, or q, k and v; the epilogue; values, among them zeros of both signs and subnormals.
Held to each problem:

1. Packing decodes to W∘M bit for bit, and a slab is 2:4 exactly where all tiles that it touches are. An independent packer
   gives the same bytes, where the format leaves no choice.
2. ONNX Runtime runs the function's body within the error bound of fp32 sums, from float64.
3. The kernels, built for the host, do too, and give the same bits in another order of blocks and of copies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.format import PackedLinear, choose_panel_rows, pack_together, unpack
from patch_compile.packing.function import GATED_PANEL_ROWS, Epilogue
from patch_compile.packing.joint import gated_panels, stacked_panels, stacked_rows
from tests.mosaics import KEPT
from tests.oracles.element_packing import Packed, pack_slabs
from tests.packing.test_function import one_linear, run
from tests.plugins.host_kernel import COMPILER, CopyMode, HostKernel, Launch, compile_host_kernel
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, Case, answer, without_panels

__all__ = ["CACHE", "Mosaic", "faults", "host_kernel", "main"]

CACHE = Path(__file__).parents[2] / "build/fuzz"

_KINDS = ("random", "dense", "sparse", "rows", "columns", "one dense", "one sparse")
_TYPES = (np.float16, ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Mosaic:
    """One problem. `weights` are before pruning; `panels`: those of each linear in the whole."""

    seed: int
    fusion: str
    weights: tuple[NDArray[Any], ...]
    patterns: tuple[NDArray[np.uint8], ...]
    masks: tuple[LinearMask, ...]
    panel_rows: int
    panels: tuple[NDArray[np.int64], ...]
    epilogue: Epilogue
    x: NDArray[Any]
    biases: tuple[NDArray[Any], ...] | None
    residual: NDArray[Any] | None

    @classmethod
    def of(cls, seed: int) -> Mosaic:
        """Draw the problem of a seed."""
        rng = np.random.default_rng(seed)
        fusion = str(rng.choice(["alone", "gated", "stacked"]))
        dtype = _TYPES[rng.integers(2)]
        columns = 4 * int(rng.integers(1, 70))
        count = {"alone": 1, "gated": 2, "stacked": int(rng.integers(2, 4))}[fusion]
        rows = [int(n) for n in rng.integers(1, 200, count)]
        rows = rows[:1] * count if fusion == "gated" else rows
        tile = (
            int(rng.choice([1, 3, 32, 64, 100, 128, 4096])),
            4 * int(rng.choice([1, 5, 8, 16, 32, 64, 1024])),
        )
        weights, patterns, masks = zip(*(_linear(rng, (n, columns), tile, dtype) for n in rows), strict=True)
        panel_rows = GATED_PANEL_ROWS if fusion == "gated" else int(rng.choice([64, 128]))
        if fusion != "gated" and rng.random() < 0.3:
            panel_rows = choose_panel_rows((rows[0], columns), tile)
        panels = gated_panels(rows[0], panel_rows) if fusion == "gated" else stacked_panels(rows, panel_rows)
        bias, residual = rng.random(2) < 0.5
        activation = "" if fusion == "stacked" else str(rng.choice(list(ACTIVATIONS)))
        epilogue = Epilogue(bool(bias), activation, fusion == "gated", bool(residual) and fusion != "stacked")
        tokens = int(rng.integers(1, 40))
        x = (rng.standard_normal((tokens, columns)) * rng.choice([1.0, 2.0**-6, 2.0**-13])).astype(dtype)
        biases = tuple(rng.standard_normal(n).astype(dtype) for n in rows) if epilogue.bias else None
        added = rng.standard_normal((tokens, rows[0])).astype(dtype) if epilogue.residual else None
        return cls(
            seed, fusion, weights, patterns, masks, panel_rows, tuple(panels), epilogue, x, biases, added
        )

    def __str__(self) -> str:
        shapes = "+".join(f"{n}x{self.x.shape[1]}" for n in self.rows)
        return (
            f"{self.fusion} {shapes}, tiles {'x'.join(map(str, self.masks[0].tile))}, panels of {self.panel_rows}, "
            f"{self.x.dtype}, {len(self.x)} tokens, {self.epilogue.overload or 'no epilogue'}"
        )

    @property
    def rows(self) -> list[int]:
        """Output features of each linear."""
        return [len(weight) for weight in self.weights]

    @cached_property
    def pruned(self) -> tuple[NDArray[Any], ...]:
        """W∘M of each linear, by the definition of tile map and pattern."""
        pruned = []
        for weight, pattern, mask in zip(self.weights, self.patterns, self.masks, strict=True):
            rows, columns = (
                np.arange(size) // step for size, step in zip(weight.shape, mask.tile, strict=True)
            )
            keep = KEPT[pattern].reshape(weight.shape) | ~mask.tiles[rows][:, columns]
            pruned.append(np.where(keep, weight, np.zeros((), weight.dtype)))
        return tuple(pruned)

    @cached_property
    def packed(self) -> PackedLinear:
        """The linears, packed by the compiler."""
        parts = [(w.view(np.uint16), mask) for w, mask in zip(self.weights, self.masks, strict=True)]
        whole = pack_together(parts, self.panel_rows, self.panels)
        rows = self.rows[0] if self.fusion == "alone" else len(whole.slab_is_sparse()) * self.panel_rows
        return PackedLinear(
            (rows, whole.shape[1]), self.panel_rows, whole.dense, whole.sparse, whole.meta, whole.index
        )

    @property
    def taken(self) -> list[int]:
        """Output rows that each linear takes in Y: whole panels for all but the last of a stack."""
        return stacked_rows(self.rows, self.panel_rows) if self.fusion == "stacked" else self.rows

    @cached_property
    def case(self) -> Case:
        """The problem as the kernels take it, with its answer in float64. Rows between the linears of a stack are zero."""
        weights, biases = [*self.pruned], self.biases
        if self.fusion == "stacked":
            weights = [np.concatenate([_padded(w, n) for w, n in zip(weights, self.taken, strict=True)])]
            if biases is not None:
                biases = (np.concatenate([_padded(b, n) for b, n in zip(biases, self.taken, strict=True)]),)
        y, slack = answer(
            self.x,
            weights,
            None if biases is None else [*biases],
            self.epilogue.activation,
            self.residual,
            False,
        )
        packed, shape = self.packed, (len(weights[0]), self.x.shape[1])
        return Case(
            Packed(
                shape,
                self.panel_rows,
                packed.dense,
                packed.sparse,
                packed.meta,
                packed.index,
                self.epilogue.gated,
            ),
            self.x.view(np.uint16),
            None if biases is None else np.concatenate(biases).view(np.uint16),
            y,
            slack,
            self.x.dtype,
            None if self.residual is None else self.residual.view(np.uint16),
            list(ACTIVATIONS).index(self.epilogue.activation),
        )


def _linear(
    rng: np.random.Generator, shape: tuple[int, int], tile: tuple[int, int], dtype: Any
) -> tuple[NDArray[Any], NDArray[np.uint8], LinearMask]:
    grid = tuple(-(-size // step) for size, step in zip(shape, tile, strict=True))
    kind, tiles = str(rng.choice(_KINDS)), rng.random(grid) < rng.random()
    match kind:
        case "dense" | "sparse":
            tiles[:] = kind == "sparse"
        case "rows":
            tiles[:] = tiles[:, :1]
        case "columns":
            tiles[:] = tiles[:1]
        case "one dense" | "one sparse":
            tiles[:] = kind == "one dense"
            tiles.flat[rng.integers(tiles.size)] ^= True
    pattern = rng.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    weight = (rng.standard_normal(shape) * rng.choice([0.125, 2.0**-10])).astype(dtype)
    zeros = rng.random(shape) < rng.choice([0.0, 0.05, 0.9])
    weight[zeros] = rng.choice([0.0, -0.0], int(zeros.sum())).astype(dtype)
    return weight, pattern, LinearMask.from_candidate(tile, tiles, pattern)


def _padded(array: NDArray[Any], rows: int) -> NDArray[Any]:
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def faults(seed: int, kernel: HostKernel | None) -> Iterator[str]:
    """Yield what is wrong with the problem of a seed, with the command that replays it."""
    mosaic = Mosaic.of(seed)
    found = [*_packing(mosaic), *_function(mosaic), *(_kernels(mosaic, kernel) if kernel else ())]
    for fault in found:
        yield f"{fault} ({mosaic}); replay: python -m tests.fuzz.mosaic {seed}"


def _packing(mosaic: Mosaic) -> Iterator[str]:
    packed, height = mosaic.packed, mosaic.panel_rows
    columns, slabs = packed.shape[1], -(-packed.shape[1] // 64)
    bits = unpack(packed)
    panels = _padded(bits, -(-len(bits) // height) * height).reshape(-1, height, columns)
    grid = packed.slab_is_sparse()
    for weight, pruned, mask, own in zip(
        mosaic.weights, mosaic.pruned, mosaic.masks, mosaic.panels, strict=True
    ):
        if not np.array_equal(panels[own].reshape(-1, columns)[: len(pruned)], pruned.view(np.uint16)):
            yield "packing does not decode to W∘M bit for bit"
        if panels[own].reshape(-1, columns)[len(pruned) :].any():
            yield "what lies beyond the rows is not zero"
        try:
            check_packed("it", packed, weight.view(np.uint16), mask, own)
        except InvariantError as error:
            yield f"the compiler's own check refuses: {error}"
        if not np.array_equal(grid[own], _sparse_slabs(mask, height, slabs)):
            yield "a slab is 2:4 where a tile that it touches is dense, or the reverse"
    yield from _other_packer(mosaic, panels, grid)


def _sparse_slabs(mask: LinearMask, height: int, slabs: int) -> NDArray[np.bool_]:
    """The grid of 2:4 slabs, weight by weight."""
    rows, columns = (np.arange(size) // step for size, step in zip(mask.shape, mask.tile, strict=True))
    dense = np.zeros((-(-mask.shape[0] // height) * height, slabs * 64), np.bool_)
    dense[: mask.shape[0], : mask.shape[1]] = ~mask.tiles[rows][:, columns]
    return ~dense.reshape(-1, height, slabs, 64).any(axis=(1, 3))


def _other_packer(mosaic: Mosaic, panels: NDArray[np.uint16], grid: NDArray[np.bool_]) -> Iterator[str]:
    """Compare with the independent packer. It may choose other positions for kept zeros, but not for other values."""
    packed = mosaic.packed
    other = pack_slabs(panels.reshape(-1, panels.shape[2]), grid, mosaic.panel_rows)
    same = ["index", "dense"]
    if all((pruned.reshape(-1, 4) != 0).sum(axis=1).min() >= 2 for pruned in mosaic.pruned):
        same += ["sparse", "meta"]
    for name in same:
        if not np.array_equal(getattr(packed, name), getattr(other, name)):
            yield f"the independent packer has another {name}"


def _function(mosaic: Mosaic) -> Iterator[str]:
    case = mosaic.case
    bias = None if case.bias is None else case.bias.view(case.dtype)
    model = one_linear(
        mosaic.packed, case.dtype.type, bias, epilogue=mosaic.epilogue, out_features=case.packed.shape[0]
    )
    residual = None if mosaic.residual is None else mosaic.residual[None]
    y = run(model, mosaic.x[None], case.dtype.type, residual)[0]
    if (worst := case.worst(y.view(np.uint16))) > 1:
        yield f"ONNX Runtime is off by {worst:.3g} of the bound"


def _kernels(mosaic: Mosaic, kernel: HostKernel) -> Iterator[str]:
    case, rng = mosaic.case, np.random.default_rng(mosaic.seed)
    fitting = [
        number
        for number, config in enumerate(kernel.configs().values())
        if config.gated == mosaic.epilogue.gated and config.panel_rows == mosaic.panel_rows
    ]
    if mosaic.epilogue.overload in ("", "bias") and mosaic.fusion == "alone" and rng.random() < 0.4:
        keep = np.repeat(rng.random(len(mosaic.panels[0])) < 0.5, mosaic.panel_rows)[: case.packed.shape[0]]
        case = without_panels(case, keep)
    config, parts = int(rng.choice(fitting)), int(rng.integers(1, 9))
    launches = [
        Launch(config, DTYPES.index(case.dtype), parts, CopyMode(int(mode)), int(rng.integers(1, 2**31)))
        for mode in rng.choice(3, 2, replace=False)
    ]
    results = [kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue) for launch in launches]
    if (worst := case.worst(results[0])) > 1:
        yield f"{list(kernel.configs())[config]} in {parts} parts is off by {worst:.3g} of the bound"
    if not np.array_equal(results[0], results[1]):
        yield f"{list(kernel.configs())[config]} gives other bits in another order of blocks or copies"


def host_kernel(cache: Path = CACHE) -> HostKernel | None:
    """Returns the kernels for this machine's CPU, compiled into the folder; None without a C++ compiler."""
    cache.mkdir(parents=True, exist_ok=True)
    return compile_host_kernel(cache) if COMPILER else None


def main(seeds: list[str], cache: Path = CACHE) -> int:
    """Check the problems of some seeds. Returns the exit code: 1 for a fault."""
    kernel, found = host_kernel(cache), 0
    for seed in map(int, seeds):
        print(f"{seed}: {Mosaic.of(seed)}")
        for fault in faults(seed, kernel):
            print(f"  {fault}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
