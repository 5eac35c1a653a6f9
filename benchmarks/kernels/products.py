"""Times hybrid products against cuBLAS and cuSPARSELt: every shape of the models."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from gpu import Call, MeasuredGpu, copies_beyond_l2, time_of
from hybrid import DENSE_PATH, Hybrid, random_hybrid
from kernels import BYTES, WEIGHTS, Device, Kernels
from problems import SHAPES, TOKENS, panel_rows
from rows import Row, table

SHARES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
BYTE_SHAPES = ((4096, 4096), (11008, 4096))
BYTE_TOKENS = (32, 128, 512, 2048, 4096)  # of w8a8; torch._int_mm wants more than 16

Measured = Iterator[tuple[Row, Any]]  # keys of rows, each with a function that measures the row's figures


def product_rows(kernels: Kernels, gpu: MeasuredGpu, device: Device) -> Measured:
    """Yield rows by shape, tokens and type: seconds of cuBLAS, cuSPARSELt and of each share of 2:4 slabs.

    Products of float16 take the same instructions as of bfloat16.

    A row of w8a8 compares with cuBLASLt's product of int8: without rounding X, scales and 16-bit outputs.
    """
    for shape in SHAPES:
        yield from _rows_of(shape, "float16", TOKENS, _Contenders(shape, kernels, gpu), device)
        if shape in BYTE_SHAPES:
            contenders = _ByteContenders(shape, kernels, gpu, BYTES)
            yield from _rows_of(shape, WEIGHTS[BYTES], BYTE_TOKENS, contenders, device)


def _rows_of(
    shape: tuple[int, int], name: str, wanted: Sequence[int], contenders: _Contenders, device: Device
) -> Measured:
    for tokens in wanted:
        yield (
            {"shape": list(shape), "tokens": tokens, "type": name},
            lambda tokens=tokens: contenders.figures(tokens, device),
        )


class _Contenders:
    """The weights of one shape for every contender, each in more copies than L2 holds. They are made when needed."""

    def __init__(self, shape: tuple[int, int], kernels: Kernels, gpu: MeasuredGpu, weights: int = 0) -> None:
        self._shape, self._kernels, self._gpu, self._weights = shape, kernels, gpu, weights
        self._dense: list[torch.Tensor] = []
        self._compressed: list[torch.Tensor] | None = None

    def figures(self, tokens: int, device: Device) -> Row:
        self._make()
        n, k = self._shape
        x = torch.randn(tokens, k, dtype=torch.float16, device="cuda")
        y = torch.empty(tokens, n, dtype=torch.float16, device="cuda")
        figures: Row = {"cublas": time_of(self._dense_calls(x, y))}
        figures["hybrid"], figures["schedule"], figures["limit"] = {}, {}, {}
        for share, hybrid in self._hybrids.items():
            config, parts = self._kernels.schedule(hybrid.problem(tokens), device)
            figures["hybrid"][str(share)] = _time(hybrid, hybrid.caller(x, y, device))
            figures["schedule"][str(share)] = [self._kernels.configs()[config].name, parts]
            figures["limit"][str(share)] = self._gpu.limit(
                tokens, self._shape, hybrid.layout.weight_bytes, share, 2 if self._weights else 1
            )
        if device.has_dense_path and not self._weights:
            hybrid = self._hybrids[0.9]
            figures["dense path"] = _time(hybrid, hybrid.caller(x, y, device, DENSE_PATH))
        # The last: an error of a library that is not ours loses nothing.
        return figures | {"cusparselt": self._cusparselt(x) if tokens % 8 == 0 else None}

    def _dense_calls(self, x: torch.Tensor, y: torch.Tensor) -> list[Call]:
        return [lambda _, d=d: torch.mm(x, d.T, out=y) for d in self._dense]

    def _cusparselt(self, x: torch.Tensor) -> float | None:
        """Seconds of cuSPARSELt, or None where it fails; the reason is printed. Weights are compressed once."""
        try:
            if self._compressed is None:
                self._compressed = _semi_structured(self._dense, self._gpu.l2)
            calls = [lambda _, w=w: torch.nn.functional.linear(x, w) for w in self._compressed]
            return _time_in_any_way(calls)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            n, k = self._shape
            print(f"no cuSPARSELt for {n}×{k} and {len(x)} tokens: {error}", file=sys.stderr)
            return None

    def _make(self) -> None:
        if self._dense:
            return
        copies = copies_beyond_l2(self._gpu.l2, 2 * self._shape[0] * self._shape[1])
        self._hybrids = {
            share: random_hybrid(
                self._kernels, self._shape, panel_rows(self._shape), share, l2=self._gpu.l2, weights=self._weights,
            )
            for share in SHARES
        }  # fmt: skip
        self._dense = [self._dense_weight() for _ in range(copies)]

    def _dense_weight(self) -> torch.Tensor:
        return torch.randn(self._shape, dtype=torch.float16, device="cuda")


class _ByteContenders(_Contenders):
    """The same of w8a8, against the dense product of int8."""

    def _dense_calls(self, x: torch.Tensor, y: torch.Tensor) -> list[Call]:
        rounded = torch.randint(-127, 128, x.shape, dtype=torch.int8, device=x.device)
        sums = torch.empty(y.shape, dtype=torch.int32, device=x.device)
        return [lambda _, d=d: torch._int_mm(rounded, d.T, out=sums) for d in self._dense]

    def _cusparselt(self, _: torch.Tensor) -> float | None:
        return None

    def _dense_weight(self) -> torch.Tensor:
        return torch.randint(-127, 128, self._shape, dtype=torch.int8, device="cuda")


def _time(hybrid: Hybrid, call: Call) -> float:
    return time_of([call] * hybrid.copies)


def _time_in_any_way(calls: Sequence[Call]) -> float:
    try:
        return time_of(calls)
    except RuntimeError as error:  # the library may refuse the capture of a graph
        print(f"cuSPARSELt is timed without a graph: {error}", file=sys.stderr)
        return time_of(calls, captured=False)


def _semi_structured(weights: Sequence[torch.Tensor], l2: int) -> list[torch.Tensor]:
    """The weights for cuSPARSELt, pruned 2:4 at fixed places, beyond L2 as well. Raises where PyTorch lacks the kernel."""
    n, k = weights[0].shape
    keep = torch.tensor([1, 1, 0, 0], device="cuda").to(weights[0].dtype).tile(k // 4)
    copies = copies_beyond_l2(l2, n * k + n * k // 8)
    return [torch.sparse.to_sparse_semi_structured(weights[i % len(weights)] * keep) for i in range(copies)]


def product_table(rows: Sequence[Row]) -> str:
    """Speed-ups over cuBLAS in Markdown, and the share of the limit that 90 % of 2:4 slabs reach."""
    hopper = any("dense path" in row for row in rows)
    header = ["shape", "tokens", "type", *(f"p = {share:g}" for share in SHARES), "cuSPARSELt"]
    header += ["of the limit at .9", "configuration at .9", *["dense path at .9"] * hopper]
    return table(header, map(_product_cells, rows))


def _product_cells(row: Row) -> list[str]:
    key, (config, parts), dense = row["key"], row["schedule"]["0.9"], row["cublas"]
    cells = ["×".join(map(str, key["shape"])), str(key["tokens"]), key["type"]]
    cells += [f"{dense / row['hybrid'][str(share)]:.2f}" for share in SHARES]
    cells += ["" if row["cusparselt"] is None else f"{dense / row['cusparselt']:.2f}"]
    cells += [f"{row['limit']['0.9'] / row['hybrid']['0.9']:.0%}", f"{config}, {parts} parts"]
    return [*cells, f"{dense / row['dense path']:.2f}"] if "dense path" in row else cells
