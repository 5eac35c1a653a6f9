"""The hybrid kernel on the GPU that is here: right first, then beside cuBLAS and cuSPARSELt, in one run.

    python plugins/bench/run.py [--out performance.json] [--minutes 8]

Needs nvcc, PyTorch with CUDA and numpy. Builds the kernels as a shared library, checks every configuration against
float64, then times hybrid weights of several shares of 2:4 slabs, cuBLAS on the dense weight, and cuSPARSELt where
PyTorch has it. Weights rotate through more memory than L2 holds; a time is the median of CUDA-graph replays. Prints a
table of ratios to cuBLAS and writes everything as JSON. Exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from kernels import Arguments, Kernels, Problem, build_library
from problems import SHAPES, TOKENS, Layout, random_layout, random_meta

from masklearn.maskset import LinearMask
from patch_compile.packing import pack

SHARES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
_DTYPES = (torch.float16, torch.bfloat16)
_MANTISSA = {torch.float16: 11, torch.bfloat16: 8}
_CHECKED = (1, 7, 16, 17, 64, 130, 300)  # tokens
_REPLAYS, _LAUNCHES = 7, 24
_COPY_BYTES, _SQUARE = 1 << 30, 8192

Call = Callable[[int], object]


class Gpu:
    """What of the device the benchmark needs to know; the two rates are measured, not taken from a data sheet."""

    def __init__(self) -> None:
        found = torch.cuda.get_device_properties(0)
        self.name, self.sms, self.l2 = found.name, found.multi_processor_count, found.L2_cache_size
        self.arch = f"sm_{found.major}{found.minor}"
        source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        self.bandwidth = 2 * _COPY_BYTES / time_of([lambda _: target.copy_(source)], 4)
        a, b = (torch.randn(_SQUARE, _SQUARE, dtype=torch.float16, device="cuda") for _ in range(2))
        out = torch.empty_like(a)
        self.flops = 2 * _SQUARE**3 / time_of([lambda _: torch.mm(a, b, out=out)], 4)

    def limit(self, tokens: int, shape: tuple[int, int], weight_bytes: int, share: float) -> float:
        """Seconds below which no kernel can be: bytes over bandwidth, products over the tensor cores' rate."""
        n, k = shape
        moved = weight_bytes + 2 * tokens * (k + n)
        return max(moved / self.bandwidth, 2 * tokens * n * k * (1 - share / 2) / self.flops)


class Hybrid:
    """A packed linear in as many copies as it takes to fill L2 twice."""

    def __init__(
        self, kernels: Kernels, layout: Layout, tensors: dict[str, torch.Tensor], copies: int
    ) -> None:
        self._kernels, self.layout = kernels, layout
        self._weights = [{name: t.clone() for name, t in tensors.items()} for _ in range(copies)]
        self._counters = torch.zeros(kernels.counter_bytes, dtype=torch.uint8, device="cuda")
        self._partials = torch.empty(0, device="cuda")

    def caller(self, x: torch.Tensor, y: torch.Tensor, sms: int, config: int = -1) -> Call:
        """A function of the copy's number that launches Y = X Wᵀ on the current stream."""
        n, k = self.layout.shape
        problem = Problem(len(x), n, k, self.layout.panel_rows, self.layout.dense, self.layout.sparse)
        config, parts = self._kernels.schedule(problem, sms, config)
        needed = self._kernels.partial_bytes(config, parts) // 4
        if self._partials.numel() < needed:
            self._partials = torch.empty(needed, device="cuda")

        def call(copy: int) -> None:
            weights = self._weights[copy % len(self._weights)]
            a = Arguments(
                x=x.data_ptr(), y=y.data_ptr(), partials=self._partials.data_ptr(),
                counters=self._counters.data_ptr(), tokens=len(x), out_features=n, in_features=k,
                panels=self.layout.panels, dense_slabs=self.layout.dense, sparse_slabs=self.layout.sparse,
                **{name: tensor.data_ptr() for name, tensor in weights.items()},
            )  # fmt: skip
            scalar = _DTYPES.index(x.dtype)
            self._kernels.launch(a, scalar, config, parts, torch.cuda.current_stream().cuda_stream)

        return call


def time_of(calls: Sequence[Call], launches: int = _LAUNCHES) -> float:
    """Median seconds of one call, over replays of a CUDA graph of `launches` that walks through the copies."""
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


def check(kernels: Kernels, gpu: Gpu) -> list[str]:
    """Every configuration and type against float64, ragged and not; returns what is wrong, in words."""
    wrong = []
    for number, (name, rows) in enumerate(kernels.configs()):
        for dtype in _DTYPES:
            for shape in ((rows + 36, 452), (4 * rows, 1024)):
                for share in (0.0, 0.6, 1.0):
                    worst = _worst_error(kernels, gpu, number, rows, dtype, shape, share)
                    if not worst <= 1.0:
                        wrong.append(
                            f"{name} {dtype} {shape} share {share}: {worst:.2f} of the allowed error"
                        )
    return wrong


def _worst_error(
    kernels: Kernels,
    gpu: Gpu,
    config: int,
    rows: int,
    dtype: torch.dtype,
    shape: tuple[int, int],
    share: float,
) -> float:
    """Largest error in units of what fp32 sums and one rounding allow (as the tests on the CPU do)."""
    rng = np.random.default_rng(config)
    tiles = rng.random((-(-shape[0] // rows), -(-shape[1] // 64))) < share
    patterns = rng.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    mask = LinearMask.from_candidate((rows, 64), tiles, patterns)
    weight = torch.from_numpy(rng.standard_normal(shape, np.float32) / 8).to(dtype)
    weight.masked_fill_(torch.from_numpy(~mask.keep()), 0.0)
    packed = pack(weight.view(torch.int16).numpy().view(np.uint16), mask, rows)
    layout = Layout(shape, rows, packed.index, len(packed.dense), len(packed.sparse))
    arrays = {"dense": packed.dense.view(np.int16), "sparse": packed.sparse.view(np.int16)}
    arrays |= {"meta": packed.meta, "index": packed.index}
    tensors = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
    hybrid = Hybrid(kernels, layout, tensors, copies=1)
    worst = 0.0
    for tokens in _CHECKED:
        x = torch.randn(tokens, shape[1], device="cuda").to(dtype)
        y = torch.full((tokens, shape[0]), torch.nan, dtype=dtype, device="cuda")
        call = hybrid.caller(x, y, gpu.sms, config)
        call(0)
        once = y.clone()
        call(0)
        torch.cuda.synchronize()
        if not torch.equal(once.view(torch.int16), y.view(torch.int16)):
            return float("inf")  # two runs differ
        x64, w64 = x.double(), weight.double().cuda()
        expected, magnitude = x64 @ w64.T, x64.abs() @ w64.abs().T
        allowed = (shape[1] + 32) * 2.0**-24 * magnitude * 1.004 + expected.abs() * 2.0 ** -_MANTISSA[dtype]
        error = (y.double() - expected).abs() / (allowed + 2.0**-24)
        worst = max(worst, float(error.nan_to_num(nan=float("inf")).max()))
    return worst


def measure(kernels: Kernels, gpu: Gpu, deadline: float) -> Iterator[dict[str, Any]]:
    """Rows of the table, until time is up: shape, tokens, seconds of cuBLAS, cuSPARSELt and of each share."""
    for shape in dict.fromkeys(shape for shapes in SHAPES.values() for shape in shapes):
        copies = 1 + -(-2 * gpu.l2 // (2 * shape[0] * shape[1]))
        rows = 128 if shape[0] % 128 == 0 else 64
        dense = [torch.randn(shape, dtype=torch.float16, device="cuda") for _ in range(copies)]
        compressed = _semi_structured(dense[0])
        hybrids = {share: _random_hybrid(kernels, shape, rows, share, copies) for share in SHARES}
        for tokens in TOKENS:
            if time.monotonic() > deadline:
                return
            x = torch.randn(tokens, shape[1], dtype=torch.float16, device="cuda")
            y = torch.empty(tokens, shape[0], dtype=torch.float16, device="cuda")
            cublas = time_of([lambda i, x=x, y=y, d=dense: torch.mm(x, d[i % len(d)].T, out=y)])
            row: dict[str, Any] = {"shape": shape, "tokens": tokens, "cublas": cublas, "cusparselt": None}
            if compressed is not None and tokens % 8 == 0:
                row["cusparselt"] = time_of([lambda _, x=x, w=compressed: torch.nn.functional.linear(x, w)])
            row["hybrid"] = {share: time_of([h.caller(x, y, gpu.sms)]) for share, h in hybrids.items()}
            row["limit"] = {
                share: gpu.limit(tokens, shape, h.layout.weight_bytes, share) for share, h in hybrids.items()
            }
            yield row


def _random_hybrid(kernels: Kernels, shape: tuple[int, int], rows: int, share: float, copies: int) -> Hybrid:
    layout = random_layout(shape, rows, share)
    tensors = {
        "dense": torch.randn(layout.dense, rows * 64, device="cuda").half(),
        "sparse": torch.randn(layout.sparse, rows * 32, device="cuda").half(),
        "meta": torch.from_numpy(random_meta(layout)).cuda(),
        "index": torch.from_numpy(layout.index).cuda(),
    }
    return Hybrid(kernels, layout, tensors, copies)


def _semi_structured(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight for cuSPARSELt, pruned 2:4 at fixed places; None where PyTorch has no such kernel."""
    pruned = weight * torch.tensor([1, 1, 0, 0], device="cuda").half().tile(weight.shape[1] // 4)
    try:
        return torch.sparse.to_sparse_semi_structured(pruned)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        print(f"no cuSPARSELt for {tuple(weight.shape)}: {error}", file=sys.stderr)
        return None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Ratios to cuBLAS in Markdown, and what share of the limit 90 % of 2:4 slabs reach."""
    header = ["shape", "tokens", *(f"p = {share:g}" for share in SHARES), "cuSPARSELt", "of the limit at .9"]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for row in rows:
        cells = [f"{row['shape'][0]}×{row['shape'][1]}", str(row["tokens"])]
        cells += [f"{row['cublas'] / row['hybrid'][share]:.2f}" for share in SHARES]
        cells.append("" if row["cusparselt"] is None else f"{row['cublas'] / row['cusparselt']:.2f}")
        cells.append(f"{row['limit'][0.9] / row['hybrid'][0.9]:.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure, print and write."""
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
    gpu = Gpu()
    with tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(build_library(Path(folder), gpu.arch))
    wrong = check(kernels, gpu)
    for line in wrong:
        print(f"wrong: {line}")
    rows = [] if wrong else list(measure(kernels, gpu, deadline))
    about = {"gpu": gpu.name, "sms": gpu.sms, "bandwidth": gpu.bandwidth, "flops": gpu.flops}
    about |= {"torch": torch.__version__, "cuda": torch.version.cuda, "wrong": wrong}
    asked.out.write_text(json.dumps(about | {"rows": rows}, indent=1))
    total = len(TOKENS) * len({shape for shapes in SHAPES.values() for shape in shapes})
    print(f"{gpu.name}: copies {gpu.bandwidth / 1e9:.0f} GB/s, cuBLAS {gpu.flops / 1e12:.0f} TFLOP/s in fp16")
    print("times of cuBLAS on the dense weight / of the hybrid kernel, p: share of 2:4 slabs\n")
    print(table(rows))
    if len(rows) < total:
        print(f"\nmeasured {len(rows)} of {total} rows in the time given")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
