"""Sums of the emulations compared with sums of tensor cores, which mmasim computes bit for bit (arXiv 2511.10909).

The emulations of the proof round to nearest, tensor cores cut off (see tests/oracles/fp32_sums.py). So a check that passes
on the CPU says little of a GPU unless the tolerance covers both. These tests hold it to the model of the hardware.
"""

import os
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.oracles.element_packing import pack_slabs, prune_2_of_4
from tests.oracles.fp32_sums import STEPS, fp32_sum_error
from tests.plugins.configs import CONFIGS
from tests.plugins.host_kernel import COMPILER, Launch
from tests.plugins.mosaic_cases import DTYPES
from tests.ptx.instructions import BITS, multiply

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation and mmasim")

UNIT = 2.0**-24
KINDS = [
    (core, kind) for core in ("Ampere", "Hopper") for kind in BITS
]  # Ada and Blackwell have the steps of these


@pytest.fixture(scope="module")
def tensor_core(library_cache):
    """The sums c + a·b of an architecture's mma.m16n8k16 or of wgmma: a, b [..., K] in 16 bits, c [...] in fp32."""
    pytest.importorskip("mmasim", reason="no mmasim, which knows how tensor cores add")
    import torch

    with pytest.MonkeyPatch.context() as patch:  # its package compiles one C++ file when it is imported
        patch.setenv("TORCH_EXTENSIONS_DIR", str(library_cache))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # ninja
        from mmasim.nv_ptx import MMA, WGMMA
    types = {"f16": torch.float16, "bf16": torch.bfloat16}

    def core(architecture, kind):
        if architecture == "Hopper, wgmma":
            mma = WGMMA("Hopper", f"m64n128k16.f32.{kind}.{kind}")
        else:
            mma = MMA(architecture, f"m16n8k16.f32.{kind}.{kind}.f32")

        def dot(a, b, c):
            a, b = (torch.from_numpy(np.asarray(v, np.float32)).to(types[kind]) for v in (a, b))
            return mma.dpa(a, b, torch.from_numpy(np.asarray(c, np.float32))).numpy()

        dot.step = (mma.arithmetic_op.L_max, mma.arithmetic_op.F)
        return dot

    return core


def unlucky(kind, step, columns):
    """Products of which tensor cores lose the most: 1, then products just below one or two of the last bit that is kept.

    In a step, one of them is lost whole, the others lose nearly a bit each, and the sum is cut off to fp32 once more.
    """
    below_two = 2 - float(ml_dtypes.finfo(BITS[kind]).eps)
    a = np.full(columns, 2.0**-12)
    b = np.full(columns, below_two * 2.0 ** (12 - step.bits))
    b[:: step.products] /= 2
    a[0], b[0] = 1, 1
    return a, b


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("architecture", [*STEPS, "Hopper, wgmma"])
def test_steps_are_those_of_the_model(tensor_core, architecture, kind):
    """Products by wgmma, as cuBLASLt multiplies on the dense path, are added as products by mma."""
    assert tensor_core(architecture, kind).step == STEPS[architecture.removesuffix(", wgmma")]


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
@pytest.mark.parametrize("columns", [16, 256, 4096])
def test_sums_of_tensor_cores_lie_within_the_tolerance(tensor_core, architecture, kind, columns):
    """Random products of mixed signs, of like signs and of many magnitudes, and unlucky products, which nearly reach it."""
    rng, core, step = np.random.default_rng(columns), tensor_core(architecture, kind), STEPS[architecture]
    a, b = rng.standard_normal((2, 64, columns)).astype(BITS[kind]).astype(np.float64)
    a[16:32], b[16:32] = np.abs(a[16:32]), np.abs(b[16:32])
    a[32:48] = np.ldexp(a[32:48], rng.integers(-8, 4, (16, columns))).astype(BITS[kind])
    a[48:], b[48:] = unlucky(kind, step, columns)
    error = np.abs(core(a, b, np.zeros(64)) - (a * b).sum(1)) / (np.abs(a) * np.abs(b)).sum(1)
    assert error.max() <= fp32_sum_error(columns)
    assert error[48] > 0.85 * (columns / step.products - 1) * step.error


def test_product_roundings_exceed_the_tolerance(tensor_core):
    """(K + 32) 2^-24 bounds IEEE sums of K products; on Ampere and Ada a correct kernel can exceed it."""
    a, b = unlucky("f16", STEPS["Ampere"], 4096)
    lost = (a * b).sum() - float(tensor_core("Ampere", "f16")(a, b, 0))
    assert lost > (4096 + 32) * UNIT * (a * b).sum()


def products(kind, how):
    """Operands of one mma whose rows and columns are alike: A [16, 16], B [16, 8], C [16, 8]."""
    rng = np.random.default_rng(5)
    if how == "unlucky":
        a, b = unlucky(kind, STEPS["Ampere"], 17)
        return np.tile(a[1:], (16, 1)), np.tile(b[1:, None], (1, 8)), np.ones((16, 8))
    if how == "whole numbers":
        return rng.integers(-9, 9, (16, 16)), rng.integers(-9, 9, (16, 8)), rng.integers(-99, 99, (16, 8))
    return [rng.standard_normal(shape).astype(BITS[kind]) for shape in ((16, 16), (16, 8), (16, 8))]


def by_host(kernel, a, b, c):
    """One mma.sp of the host emulation, which keeps the first two columns of every four."""
    spread = np.zeros((32, 8))
    spread[np.arange(32) % 4 < 2] = b
    return kernel.mma_sp(0, np.asarray(a), spread.T, np.full(32, 0x44444444), np.asarray(c, np.float32))


@pytest.mark.parametrize("how", ["random", "whole numbers", "unlucky"])
@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_emulation_differs_only_by_rounding(tensor_core, kernel, architecture, kind, how):
    """Whole numbers give the same bits. Where tensor cores cut off, the emulations round, and only the bound holds."""
    a, b, c = (np.asarray(v, np.float64) for v in products(kind, how))
    core = tensor_core(architecture, kind)(a[:, None], b.T[None], c)
    interpreted = multiply(kind, a, b, c)
    emulations = [interpreted, by_host(kernel, a, b, c)] if kind == "f16" else [interpreted]
    sizes = np.abs(a) @ np.abs(b) + np.abs(c)
    for got in emulations:
        if how == "whole numbers":
            np.testing.assert_array_equal(got, core)
        bound = 16 / STEPS[architecture].products * STEPS[architecture].error + 16 * UNIT
        assert (np.abs(got - core) <= bound * sizes).all()
        if how == "unlucky":
            assert (got > core).all()


def summed(core, weight, x, sparse):
    """Sums [tokens, rows] as the kernels order them: dense slabs by columns, then the kept weights of 2:4 slabs."""
    tokens, rows = len(x), len(weight)
    groups = weight.reshape(rows, -1, 4)
    kept = np.sort(np.argsort(groups == 0, -1, kind="stable")[..., :2], -1)
    taken = (kept + 4 * np.arange(groups.shape[1])[:, None]).reshape(rows, -1)
    dense = np.flatnonzero(np.repeat(~sparse, 64))
    taken = taken[:, np.repeat(sparse, 32)]
    places = np.concatenate([np.tile(dense, (rows, 1)), taken], 1)
    a = np.take_along_axis(weight, places, 1)
    return core(np.repeat(a[None], tokens, 0), x[:, places], np.zeros((tokens, rows)))


@pytest.mark.parametrize("slabs", [[0], [1], [0, 1, 1, 0, 1, 0]], ids=["dense", "2:4", "mosaic"])
@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_slab_sums_equal_tensor_core_sums(tensor_core, kernel, architecture, kind, slabs):
    """A bias takes the sum's leading bits away, so the 16 bits of Y show the last bits of the fp32 sum."""
    rng, sparse, dtype = np.random.default_rng(len(slabs)), np.array(slabs, bool), BITS[kind]
    weight = rng.standard_normal((64, 64 * len(slabs)), np.float32).astype(dtype).astype(np.float32)
    weight = np.where(np.repeat(sparse, 64), prune_2_of_4(weight, rng), weight)
    x = rng.standard_normal((16, weight.shape[1])).astype(dtype)
    x[1:] = x[0]  # one bias for all tokens
    wide = x.astype(np.float64)
    sums = summed(tensor_core(architecture, kind), weight, wide, sparse)
    bias = (-sums[0]).astype(dtype)
    packed = pack_slabs(weight.astype(dtype).view(np.uint16), sparse[None], 64)
    bound = (fp32_sum_error(weight.shape[1]) + weight.shape[1] * UNIT) * (np.abs(wide) @ np.abs(weight.T))
    for config in ("decode-64", "prefill-64"):
        launch = Launch(CONFIGS.index(config), scalar=DTYPES.index(dtype))
        y = kernel.run(packed, x.view(np.uint16), bias.view(np.uint16), launch).view(dtype).astype(np.float64)
        rest = sums.astype(np.float64) + bias.astype(np.float64)
        rounding = np.abs(rest) * 2.0 ** -(11 if kind == "f16" else 8) + 2.0**-24
        assert (np.abs(y - rest) <= bound + rounding).all()
        assert np.abs(y).max() < 2.0**-7 * np.abs(sums).max()


@pytest.mark.parametrize(("scalar", "dtype"), enumerate(DTYPES))
def test_rounding_of_the_emulation_is_that_of_ieee(kernel, scalar, dtype):
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.standard_normal(4000), rng.integers(-30, 20, 4000)).astype(np.float32)
    values = np.concatenate(
        [values, [0.0, -0.0, 65504, 65519.99, 65520, -65520, np.inf, 2.0**-25, 3 * 2.0**-25]]
    )
    values = values.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(dtype).view(np.uint16)
    got = np.array([kernel.lib.patch_host_narrow(scalar, v) for v in values], np.uint16)
    np.testing.assert_array_equal(got, expected)
    every = np.arange(65536, dtype=np.uint16)
    widened = np.array([kernel.lib.patch_host_widen(scalar, int(v)) for v in every[::7]], np.float32)
    np.testing.assert_array_equal(widened, every[::7].view(dtype).astype(np.float32))
