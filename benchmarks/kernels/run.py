"""Checks the hybrid kernel on this machine's GPU, then times it beside cuBLAS and cuSPARSELt.

    python benchmarks/kernels/run.py [--out performance.json] [--minutes 8]

Needs nvcc, PyTorch with CUDA and numpy. Builds the kernels as a shared library, checks every configuration against
float64, then times hybrid weights of several shares of 2:4 slabs, cuBLAS on the dense weight, and cuSPARSELt where
PyTorch has it; then gated products and products with a residual, beside the several kernels of a dense model.
Weights rotate through more memory than L2 holds; a time is the median of CUDA-graph replays. Prints tables of ratios
and writes everything as JSON. Exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from check import check
from hybrid import DENSE_PATH, Call, Epilogue, random_hybrid
from kernels import Device, Kernels, build_library
from problems import SHAPES, TOKENS

SHARES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
AFTER_SHARES, AFTER_TOKENS = (0.0, 0.5, 0.9), (1, 16, 128, 2048)  # for products with an epilogue
_AFTER_SECONDS = 60  # seconds of the given time that those get
_REPLAYS, _LAUNCHES = 7, 24
_COPY_BYTES, _SQUARE = 1 << 30, 8192


class MeasuredGpu:
    """Properties of the device. Both rates are measured, not taken from a data sheet."""

    def __init__(self) -> None:
        found = torch.cuda.get_device_properties(0)
        self.name, self.l2 = found.name, found.L2_cache_size
        self.arch = f"sm_{found.major}{found.minor}"
        source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        self.bandwidth = 2 * _COPY_BYTES / time_of([lambda _: target.copy_(source)], 4)
        a, b = (torch.randn(_SQUARE, _SQUARE, dtype=torch.float16, device="cuda") for _ in range(2))
        out = torch.empty_like(a)
        self.flops = 2 * _SQUARE**3 / time_of([lambda _: torch.mm(a, b, out=out)], 4)

    def copies(self, shape: tuple[int, int]) -> int:
        """Number of weights of that shape that fill L2 twice, and one more."""
        return 1 + -(-2 * self.l2 // (2 * shape[0] * shape[1]))

    def limit(self, tokens: int, shape: tuple[int, int], weight_bytes: int, share: float) -> float:
        """Lower bound of any kernel's seconds: bytes over bandwidth, products over the tensor cores' rate."""
        n, k = shape
        moved = weight_bytes + 2 * tokens * (k + n)
        return max(moved / self.bandwidth, 2 * tokens * n * k * (1 - share / 2) / self.flops)


def time_of(calls: Sequence[Call], launches: int = _LAUNCHES) -> float:
    """Median seconds of one call, over replays of a CUDA graph of `launches` calls that walks through the copies."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(3):
            calls[i % len(calls)](i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(launches):
            calls[i % len(calls)](i)
    graph.replay()
    seconds = []
    for _ in range(_REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3 / launches)
    return median(seconds)


def measure(kernels: Kernels, gpu: MeasuredGpu, device: Device, deadline: float) -> Iterator[dict[str, Any]]:
    """Yield rows of the table until time is up: shape, tokens, seconds of cuBLAS, cuSPARSELt and each share."""
    for shape in _shapes():
        copies = gpu.copies(shape)
        dense = [torch.randn(shape, dtype=torch.float16, device="cuda") for _ in range(copies)]
        compressed = _semi_structured(dense[0])
        hybrids = {
            share: random_hybrid(kernels, shape, _panel_rows(shape), share, copies=copies) for share in SHARES
        }
        for tokens in TOKENS:
            if time.monotonic() > deadline:
                return
            x = torch.randn(tokens, shape[1], dtype=torch.float16, device="cuda")
            y = torch.empty(tokens, shape[0], dtype=torch.float16, device="cuda")
            cublas = time_of([lambda i, x=x, y=y, d=dense: torch.mm(x, d[i % len(d)].T, out=y)])
            row: dict[str, Any] = {"shape": shape, "tokens": tokens, "cublas": cublas, "cusparselt": None}
            if compressed is not None and tokens % 8 == 0:
                row["cusparselt"] = time_of([lambda _, x=x, w=compressed: torch.nn.functional.linear(x, w)])
            row["hybrid"] = {share: time_of([h.caller(x, y, device)]) for share, h in hybrids.items()}
            if device.dense_fma:
                row["dense path"] = time_of([hybrids[0.9].caller(x, y, device, DENSE_PATH)])
            row["limit"] = {
                share: gpu.limit(tokens, shape, h.layout.weight_bytes, share) for share, h in hybrids.items()
            }
            yield row


def measure_after(
    kernels: Kernels, gpu: MeasuredGpu, device: Device, deadline: float
) -> Iterator[dict[str, Any]]:
    """Yield rows of products with an epilogue, which the hybrid kernel computes in one launch.

    Weights that widen compute SiLU(gate)·up, others add a residual. The dense model takes cuBLAS for gate and up at
    once and two kernels of PyTorch after it; for a residual it takes cuBLAS with beta = 1.
    """
    for shape in _shapes():
        gated = shape[0] > shape[1]
        copies = gpu.copies(shape)
        rows = 64 if gated else _panel_rows(shape)
        dense = [torch.randn((1 + gated) * shape[0], shape[1], device="cuda").half() for _ in range(copies)]
        hybrids = {
            share: random_hybrid(kernels, shape, rows, share, gated=gated, copies=copies)
            for share in AFTER_SHARES
        }
        for tokens in AFTER_TOKENS:
            if time.monotonic() > deadline:
                return
            x = torch.randn(tokens, shape[1], device="cuda").half()
            y, residual = torch.empty(2, tokens, shape[0], dtype=torch.float16, device="cuda")
            after = Epilogue(activation="silu") if gated else Epilogue(residual=residual)
            path = _dense_gated(x, dense) if gated else _dense_residual(x, dense, residual)
            seconds = {s: time_of([h.caller(x, y, device, -1, after)]) for s, h in hybrids.items()}
            what = "SiLU(gate)·up" if gated else "+ residual"
            yield {
                "shape": shape,
                "tokens": tokens,
                "after": what,
                "dense": time_of([path]),
                "hybrid": seconds,
            }


def _dense_gated(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> Call:
    half = weights[0].shape[0] // 2
    z = torch.empty(len(x), 2 * half, dtype=x.dtype, device=x.device)

    def call(i: int) -> None:
        torch.mm(x, weights[i % len(weights)].T, out=z)
        torch.nn.functional.silu(z[:, :half]).mul_(z[:, half:])

    return call


def _dense_residual(x: torch.Tensor, weights: Sequence[torch.Tensor], residual: torch.Tensor) -> Call:
    y = torch.empty_like(residual)
    return lambda i: torch.addmm(residual, x, weights[i % len(weights)].T, out=y)


def _shapes() -> list[tuple[int, int]]:
    return list(dict.fromkeys(shape for shapes in SHAPES.values() for shape in shapes))


def _panel_rows(shape: tuple[int, int]) -> int:
    return 128 if shape[0] % 128 == 0 else 64


def _semi_structured(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight for cuSPARSELt, pruned 2:4 at fixed places; None when PyTorch lacks the kernel."""
    pruned = weight * torch.tensor([1, 1, 0, 0], device="cuda").half().tile(weight.shape[1] // 4)
    try:
        return torch.sparse.to_sparse_semi_structured(pruned)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        print(f"no cuSPARSELt for {tuple(weight.shape)}: {error}", file=sys.stderr)
        return None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Speed-ups over cuBLAS in Markdown, and the share of the limit that 90 % of 2:4 slabs reach."""
    header = ["shape", "tokens", *(f"p = {share:g}" for share in SHARES), "cuSPARSELt", "of the limit at .9"]
    header += ["dense path at .9"] * any("dense path" in row for row in rows)
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for row in rows:
        cells = [f"{row['shape'][0]}×{row['shape'][1]}", str(row["tokens"])]
        cells += [f"{row['cublas'] / row['hybrid'][share]:.2f}" for share in SHARES]
        cells.append("" if row["cusparselt"] is None else f"{row['cublas'] / row['cusparselt']:.2f}")
        cells.append(f"{row['limit'][0.9] / row['hybrid'][0.9]:.0%}")
        if "dense path" in row:
            cells.append(f"{row['cublas'] / row['dense path']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_after(rows: Sequence[dict[str, Any]]) -> str:
    """Speed-ups of the one hybrid kernel over the dense model's kernels, in Markdown."""
    header = ["shape", "tokens", "after the product", *(f"p = {share:g}" for share in AFTER_SHARES)]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for row in rows:
        cells = [f"{row['shape'][0]}×{row['shape'][1]}", str(row["tokens"]), row["after"]]
        cells += [f"{row['dense'] / row['hybrid'][share]:.2f}" for share in AFTER_SHARES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("performance.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="stop measuring after so many")
    asked = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * asked.minutes - 15
    if not torch.cuda.is_available():
        print("error: PyTorch sees no GPU; this benchmark runs on one", file=sys.stderr)
        return 1
    gpu = MeasuredGpu()
    with tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(build_library(Path(folder), gpu.arch))
    device = kernels.device()
    wrong = check(kernels, device)
    for line in wrong:
        print(f"wrong: {line}")
    rows = [] if wrong else list(measure(kernels, gpu, device, deadline - _AFTER_SECONDS))
    after = [] if wrong else list(measure_after(kernels, gpu, device, deadline))
    about = {"gpu": gpu.name, "sms": device.sms, "bandwidth": gpu.bandwidth, "flops": gpu.flops}
    about |= {"torch": torch.__version__, "cuda": torch.version.cuda, "wrong": wrong}
    asked.out.write_text(json.dumps(about | {"rows": rows, "after": after}, indent=1))
    print(f"{gpu.name}: copies {gpu.bandwidth / 1e9:.0f} GB/s, cuBLAS {gpu.flops / 1e12:.0f} TFLOP/s in fp16")
    print("times of cuBLAS on the dense weight / of the hybrid kernel, p: share of 2:4 slabs\n")
    print(table(rows))
    print("\ntimes of the dense path / of the one hybrid kernel\n")
    print(table_after(after))
    total = len(_shapes()) * (len(TOKENS) + len(AFTER_TOKENS))
    if len(rows) + len(after) < total:
        print(f"\nmeasured {len(rows) + len(after)} of {total} rows in the time given")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
