"""A packed linear in device memory, with enough copies that no launch finds its weight in L2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from gpu import Call, copies_beyond_l2
from kernels import BYTES, SLAB_NAMES, Arguments, Device, Kernels, Problem, problem_of, value_bytes
from problems import Layout, random_layout, random_meta

DTYPES = (torch.float16, torch.bfloat16)  # index: `Scalar` in kernels/arguments.h
ACTIVATIONS = ("", "gelu", "gelu_tanh", "silu")  # index: `Activation` in kernels/arguments.h

DENSE_PATH = -2  # stands for a configuration


@dataclass(frozen=True)
class Epilogue:
    """Work of a launch after the product. Tensors have X's type and device."""

    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    activation: str = ""


class Hybrid:
    """A packed linear. shape: (out_features, in_features); gated: `layout` holds a gate and an up of this shape."""

    def __init__(
        self,
        kernels: Kernels,
        shape: tuple[int, int],
        layout: Layout,
        tensors: Mapping[str, torch.Tensor],
        *,
        gated: bool = False,
        copies: int = 1,
    ) -> None:
        self._kernels, self.shape, self.layout, self._gated = kernels, shape, layout, gated
        self._weights = [{name: t.clone() for name, t in tensors.items()} for _ in range(copies)]
        self.copies = copies
        place = tensors["index"].device
        self._counters = torch.zeros(kernels.counter_bytes, dtype=torch.uint8, device=place)

    def problem(self, tokens: int) -> Problem:
        """The problem that a schedule is chosen for."""
        layout = self.layout
        return problem_of(tokens, self.shape, layout.panel_rows, layout.counts, self._gated, layout.weights)

    def caller(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        device: Device,
        config: int = -1,
        epilogue: Epilogue | None = None,
        parts: int | None = None,
    ) -> Call:
        """A launch from X `[tokens, in]` to Y `[tokens, out]`.

        config: -1 lets the shape decide; DENSE_PATH is forced. parts: None takes the plugin's number for `config`.
        """
        after = epilogue or Epilogue()
        if config == DENSE_PATH:
            return self._dense_path_caller(x, y, after)
        config, usual = self._kernels.schedule(self.problem(len(x)), device, config)
        parts = usual if parts is None else parts
        partials = torch.empty(self._kernels.partial_bytes(config, parts) // 4, device=x.device)
        rounded = self._rounded(x)
        arguments = self._arguments(x, y, after, partials, rounded)
        table = self._kernels.table(arguments[0], self.layout.index, config, parts)
        scalar = DTYPES.index(x.dtype)

        def call(copy: int, _kept: object = (x, y, after, partials, rounded)) -> None:
            self._kernels.launch(arguments[copy % len(arguments)], table, scalar, config, parts, _stream(x))

        return call

    def _dense_path_caller(self, x: torch.Tensor, y: torch.Tensor, after: Epilogue) -> Call:
        epilogue = after.bias is not None, after.residual is not None, ACTIVATIONS.index(after.activation)
        path = self._kernels.dense_path(self.problem(len(x)), epilogue, DTYPES.index(x.dtype))
        workspace = torch.empty(path.bytes, dtype=torch.uint8, device=x.device)
        rounded = self._rounded(x)
        arguments = self._arguments(x, y, after, workspace, rounded)

        def call(copy: int, _kept: object = (x, y, after, rounded)) -> None:
            path.run(arguments[copy % len(arguments)], workspace.data_ptr(), _stream(x))

        return call

    def _rounded(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Memory for X as integers and the scale of each token, which a launch of w8a8 writes."""
        if self.layout.weights != BYTES:
            return {}
        columns = -(-x.shape[1] // 64) * 64
        return {
            "rounded": torch.empty(len(x), columns, dtype=torch.int8, device=x.device),
            "token_scales": torch.empty(len(x), device=x.device),
        }

    def _arguments(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        after: Epilogue,
        partials: torch.Tensor,
        rounded: Mapping[str, torch.Tensor] | None = None,
    ) -> list[Arguments]:
        """Arguments for every copy of the weight."""
        (n, k), layout = self.shape, self.layout
        sizes = Arguments(
            x=x.data_ptr(), y=y.data_ptr(), partials=partials.data_ptr(),
            counters=self._counters.data_ptr(), tokens=len(x), out_features=n, in_features=k,
            panels=-(-(1 + self._gated) * n // layout.panel_rows), gated=self._gated, bias=_pointer(after.bias),
            residual=_pointer(after.residual), activation=ACTIVATIONS.index(after.activation),
            **{name: tensor.data_ptr() for name, tensor in (rounded or {}).items()},
        )  # fmt: skip
        sizes.set_slabs(layout.panel_rows, layout.counts, layout.weights)
        return [_with(sizes, copy) for copy in self._weights]


def random_hybrid(
    kernels: Kernels, shape: tuple[int, int], rows: int, share: float, *, l2: int, weights: int = 0
) -> Hybrid:
    """Random weights for timing, with `share` of the slabs 2:4.

    l2: bytes of L2, which the copies of the weight exceed; weights: number of their type; integer weights have random bits.
    """
    layout = random_layout(shape, rows, share, weights=weights)
    if weights:
        dense, sparse = (
            torch.randint(-(2**31), 2**31, (count, size // 4), dtype=torch.int32, device="cuda")
            for count, size in zip(layout.counts, value_bytes(rows, weights), strict=False)
        )
    else:
        dense = torch.randn(layout.counts[0], rows * 64, device="cuda").half()
        sparse = torch.randn(layout.counts[1], rows * 32, device="cuda").half()
    tensors = {
        "dense": dense,
        "sparse": sparse,
        "meta": torch.from_numpy(random_meta(layout)).cuda(),
        "index": torch.from_numpy(layout.index).cuda(),
        "scales": torch.full((shape[0] + rows,), 1 / 128, device="cuda"),  # of int8 and w8a8
    }
    return Hybrid(kernels, shape, layout, tensors, copies=copies_beyond_l2(l2, layout.weight_bytes))


def _stream(x: torch.Tensor) -> int:
    return int(torch.cuda.current_stream().cuda_stream) if x.is_cuda else 0


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _with(sizes: Arguments, weights: Mapping[str, torch.Tensor]) -> Arguments:
    arguments = Arguments.from_buffer_copy(sizes)
    arguments.index, arguments.scales = weights["index"].data_ptr(), _pointer(weights.get("scales"))
    for own, names in zip(arguments.slabs, SLAB_NAMES, strict=True):
        own.values, own.extra = (_pointer(weights.get(name)) for name in names)
    return arguments
