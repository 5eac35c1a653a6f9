"""Checks every configuration and epilogue on this machine's GPU against float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from hybrid import ACTIVATIONS, DENSE_PATH, DTYPES, Epilogue, Hybrid
from kernels import BYTES, SLAB_NAMES, WEIGHTS, Config, Device, Kernels, device_index, kinds_with
from numpy.typing import NDArray
from problems import Layout
from rows import Row

from patch_compile.planning.roofline.schedule import PATCH_KINDS
from tests.oracles.element_packing import Packed, pack_gated, pack_slabs, prune
from tests.oracles.fp32_sums import fp32_sum_error
from tests.oracles.int8_products import quantise_inputs
from tests.oracles.integer_packing import INT8, W8A8, Quantised, pack_gated_integers, pack_integers, quantise

_MANTISSA = {torch.float16: 11, torch.bfloat16: 8}  # significand bits
_SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}  # spacing of the subnormals
TOKENS = (1, 7, 16, 17, 64, 130, 300)
_SHARES = (0.0, 0.6, 1.0)
_FAR_OFF = 4.0  # times the allowed error: the bound's model may be wrong by less, as it has no mma.sp
# Largest slope and error of an activation, as in the tests on the CPU.
_STEEPEST, _ACTIVATION_ERROR = 1.13, 2.0**-18


class Case(NamedTuple):
    """One check: a configuration, a type, the shape of W, or of a gate and its up, and the share of its tiles that are
    pruned."""

    config: int
    about: Config
    dtype: torch.dtype
    shape: tuple[int, int]
    share: float
    gated: bool = False

    def __str__(self) -> str:
        return f"{self.about.name} {self.dtype} {self.shape} share {self.share}" + " gated" * self.gated


class Wrong(RuntimeError):
    """A kernel gave no answer, or two."""


def names(kernels: Kernels, device: Device) -> list[str]:
    """Names of what can be checked on this device: fitting configurations, and its dense path if it has one."""
    return list(dict.fromkeys(case.about.name for case in _cases(kernels, device)))


def check_row(
    kernels: Kernels, device: Device, name: str, tokens: Sequence[int] = TOKENS, place: str = "cuda"
) -> Row:
    """Run ragged and whole shapes, with and without an epilogue; returns the figures of a configuration.

    place: device of the tensors. faults: the wrong cases in words; worst: the largest error over the allowed error, None
    without any answer; useless: True if a case has no answer, or an answer so wrong that its times mean nothing.
    """
    faults, shares, useless = [], [], False
    for case in _cases(kernels, device):
        if case.about.name != name:
            continue
        try:
            share = _worst_error(kernels, device, case, place, tokens)
        except RuntimeError as error:
            faults.append(f"{case}: {error}")
            useless = True
            continue
        shares.append(share)
        useless |= share > _FAR_OFF
        if share > 1.0:
            faults.append(f"{case}: {share:.2f} of the allowed error")
    return {"faults": faults, "worst": max(shares, default=None), "useless": useless}


def _cases(kernels: Kernels, device: Device) -> Iterator[Case]:
    yield from _kernel_cases(kernels, device)
    if device.has_dense_path:
        yield from _dense_path_cases()


def _kernel_cases(kernels: Kernels, device: Device) -> Iterator[Case]:
    for number, about in enumerate(kernels.configs()):
        if about.shared_bytes > device.shared_bytes:
            continue
        rows = about.panel_rows
        for dtype in DTYPES:
            for shape, gated in (
                ((rows + 36, 452), False),
                ((4 * rows, 1024), False),
                ((rows + 40, 452), True),
            ):
                # Without a slab of n:16 no configuration for all kinds is chosen.
                shares = _SHARES if about.kinds == PATCH_KINDS or about.weights else _SHARES[1:]
                yield from (Case(number, about, dtype, shape, share, gated) for share in shares)


def _dense_path_cases() -> Iterator[Case]:
    for rows, gated in ((64, False), (128, False), (128, True)):
        about = Config("dense path", rows, 0, 0)
        for dtype in DTYPES:
            for shape in ((rows + 40, 456), (4 * rows, 1024)):
                yield from (Case(DENSE_PATH, about, dtype, shape, share, gated) for share in _SHARES)
    for weights, gated in ((w, g) for w in range(1, len(WEIGHTS)) for g in (False, True)):
        kinds = len(kinds_with(weights))
        about = Config(f"dense path of {WEIGHTS[weights]}", 64, 0, 0, kinds, weights)
        dtype = DTYPES[weights % len(DTYPES)]  # they differ in one conversion
        yield from (Case(DENSE_PATH, about, dtype, (104, 456), share, gated) for share in _SHARES)


def _worst_error(kernels: Kernels, device: Device, case: Case, place: str, tokens: Sequence[int]) -> float:
    """Largest error in units of the error that fp32 sums and one rounding allow. Raises Wrong, and RuntimeError with
    CUDA's message."""
    rng = np.random.default_rng(abs(case.config))
    packed, weights = packed_weights(*random_weights(rng, case), case, rng)
    whole = packed.panels * packed.panel_rows, case.shape[1]
    index = device_index(packed.index, packed.kinds, sum(packed.counts), case.about.kinds)
    layout = Layout(whole, packed.panel_rows, index, packed.counts[: case.about.kinds], case.about.weights)
    hybrid = Hybrid(kernels, case.shape, layout, tensors_of(packed, index, place), gated=case.gated)
    weights = [weight.to(place) for weight in weights]
    worst = 0.0
    for turn, rows in enumerate(tokens):
        x = torch.randn(rows, case.shape[1], device=place).to(case.dtype)
        epilogue = epilogue_of_turn(case, x, turn)
        y = torch.full((rows, case.shape[0]), torch.nan, dtype=case.dtype, device=place)
        call = hybrid.caller(x, y, device, case.config, epilogue)
        call(0)
        once = y.clone()
        call(0)
        if not torch.equal(once.view(torch.int16), y.view(torch.int16)):
            raise Wrong(f"two runs differ with {rows} tokens")
        if not y.isfinite().all():
            raise Wrong(f"NaN or infinity with {rows} tokens")
        rounded = case.config == DENSE_PATH and bool(case.gated or epilogue.activation)
        if case.about.weights == BYTES:  # sums of integers are exact
            x, rounded = _rounded_inputs(x), False
        worst = max(worst, share_of_allowed_error(y, x, weights, epilogue, rounded))
    return worst


def _rounded_inputs(x: torch.Tensor) -> torch.Tensor:
    """The values that products of w8a8 multiply by: integers times the scale of their token, in float64."""
    integers, scales = quantise_inputs(x.float().cpu().numpy())
    values = integers.astype(np.float64) * scales.astype(np.float64)[:, None]
    return torch.from_numpy(values).to(x.device)


def random_weights(rng: np.random.Generator, case: Case) -> tuple[list[torch.Tensor], NDArray[np.int64]]:
    """A pruned weight, or those of a gate and its up, and the kinds of the slabs."""
    rows, (n, k) = case.about.panel_rows, case.shape
    panel_of_row = np.arange(n) // 8 * 16 // rows if case.gated else np.arange(n) // rows
    grid = int(panel_of_row[-1]) + 1, -(-k // 64)
    codes = np.where(rng.random(grid) < case.share, rng.integers(1, case.about.kinds, grid), 0)
    weights = []
    for _ in range(1 + case.gated):
        weight = np.pad(rng.standard_normal((n, k), np.float32) / 8, ((0, 0), (0, -k % 64)))
        inside = np.repeat(codes[panel_of_row], 64, 1)
        for kind in range(1, case.about.kinds):
            weight = np.where(inside == kind, prune(weight, kind, rng, case.about.weights), weight)
        weights.append(torch.from_numpy(np.ascontiguousarray(weight[:, :k])).to(case.dtype))
    return weights, codes


def packed_weights(
    halves: Sequence[torch.Tensor], codes: NDArray[np.int64], case: Case, rng: np.random.Generator
) -> tuple[Packed, list[torch.Tensor]]:
    """The weights packed, as integers if the case has a type of them, and the values that the kernels multiply by."""
    rows = case.about.panel_rows
    if not case.about.weights:
        bits = np.stack([weight.view(torch.int16).numpy().view(np.uint16) for weight in halves])
        packed = pack_gated(bits, codes, rows) if case.gated else pack_slabs(bits[0], codes, rows)
        return packed, list(halves)
    made = [quantise(weight.float().numpy(), case.about.weights, rng) for weight in halves]
    dtype = np.dtype(np.float16) if case.dtype == torch.float16 else None
    given = codes, dtype, rows
    packed = pack_gated_integers(made, *given) if case.gated else pack_integers(made[0], *given)
    return packed, [_multiplied(one, case) for one in made]


def _multiplied(one: Quantised, case: Case) -> torch.Tensor:
    """Weights of int8 are not rounded again, but by the dense path."""
    products = torch.from_numpy(one.products())
    exact = one.type == W8A8 or (one.type == INT8 and case.config != DENSE_PATH)
    return products if exact else products.float().to(case.dtype)


def tensors_of(packed: Packed, index: NDArray[np.int32], place: str) -> dict[str, torch.Tensor]:
    arrays: dict[str, NDArray[Any]] = {"index": index}
    for kind, (values, words) in packed.tensors.items():
        arrays[SLAB_NAMES[kind][0]] = values if packed.weights else values.view(np.int16)
        if words is not None:
            arrays[SLAB_NAMES[kind][1]] = words
    if packed.scales is not None:
        arrays["scales"] = packed.scales
    return {name: torch.from_numpy(array).to(place) for name, array in arrays.items()}


def epilogue_of_turn(case: Case, x: torch.Tensor, turn: int) -> Epilogue:
    """An epilogue whose bias, residual and activation vary with `turn`; turn 0 has no epilogue."""
    n = case.shape[0]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=x.device).to(x.dtype)

    bias = random((1 + case.gated) * n) if turn % 2 else None
    residual = random(len(x), n) if turn % 3 == 2 else None
    return Epilogue(bias, residual, ACTIVATIONS[turn % len(ACTIVATIONS)])


def share_of_allowed_error(
    y: torch.Tensor, x: torch.Tensor, weights: Sequence[torch.Tensor], epilogue: Epilogue, rounded: bool
) -> float:
    """Largest error as a share of the error that tensor cores' sums and the epilogue may have, to first order.

    rounded: X Wᵀ is rounded to the output type before the rest is computed. X of float64 are integers times scales, whose
    sums are exact.
    """
    x64, (n, k) = x.double(), weights[0].shape
    biases = torch.zeros(len(weights), n, dtype=torch.float64, device=x.device)
    if epilogue.bias is not None:
        biases += epilogue.bias.double().view(len(weights), n)
    sums = [x64 @ w.double().T + bias for w, bias in zip(weights, biases, strict=True)]
    slacks = [
        fp32_sum_error(k) * (x64.abs() @ w.double().abs().T + bias.abs())
        for w, bias in zip(weights, biases, strict=True)
    ]
    if x.dtype == torch.float64:  # a sum becomes a float, and is multiplied by two scales
        slacks = [
            # The sum that it is compared with may be none where the integers' sum is 0.
            2.0**-23 * (x64 @ w.T).abs()
            + 2.0**-24 * s.abs()
            + 2.0**-53 * k * (x64.abs() @ w.double().abs().T)
            for s, w in zip(sums, weights, strict=True)
        ]
    if weights[0].dtype == torch.float64:  # sums of integers, times scales
        slacks = [s + 2.0**-24 * (x64 @ w.T).abs() for s, w in zip(slacks, weights, strict=True)]
    if rounded:
        unit = 2.0 ** -_MANTISSA[y.dtype]
        products = [x64 @ w.double().T for w in weights]
        slacks = [s + unit * z.abs() + _SMALLEST[y.dtype] for s, z in zip(slacks, products, strict=True)]
    expected, slack = _activated(epilogue.activation, sums[0]), slacks[0]
    if epilogue.activation:
        slack = _STEEPEST * slack + _ACTIVATION_ERROR * sums[0].abs()
    if len(weights) == 2:
        slack = slack * sums[1].abs() + (expected.abs() + slack) * slacks[1]
        expected = expected * sums[1]
        slack = slack + 2.0**-24 * expected.abs()
    if epilogue.residual is not None:
        expected = expected + epilogue.residual.double()
        slack = slack + 2.0**-24 * expected.abs()
    allowed = slack * (1 + 2.0**-7) + expected.abs() * 2.0 ** -_MANTISSA[y.dtype] + _SMALLEST[y.dtype]
    return float(((y.double() - expected).abs() / allowed).nan_to_num(nan=float("inf")).max())


def _activated(name: str, z: torch.Tensor) -> torch.Tensor:
    if name == "silu":
        return torch.nn.functional.silu(z)
    if name:
        return torch.nn.functional.gelu(z, approximate="tanh" if name == "gelu_tanh" else "none")
    return z
