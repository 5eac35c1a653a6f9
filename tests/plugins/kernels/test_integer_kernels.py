"""Kernels for weights of integers, run by host fibers: every kind of slab, by itself and mixed, and broken decoders."""

import numpy as np
import pytest

from tests.oracles.element_packing import KEPT
from tests.plugins.configs import ALL, INTEGERS, case_for
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.kernels.test_results import check
from tests.plugins.mosaic_cases import DTYPES
from tests.plugins.mutations import broken_copy, named

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

OFTEN_RUN = {
    ("int8-decode-64", DTYPES[0]), ("int8-mid-64", DTYPES[1]),
    ("int4-decode-64", DTYPES[1]), ("int4-mid-64", DTYPES[0]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        # The types of X differ in conversions: `make mutate` runs the others.
        pytest.param(config, dtype, marks=[] if (config, dtype) in OFTEN_RUN else pytest.mark.mutation)
        for config in INTEGERS
        for dtype in DTYPES
    ],
    ids=str,
)
def test_each_kind_alone_and_all_kinds_mixed(integer_kernel, config, dtype):
    """Kind 0 has no second tensor; the last case mixes all kinds in a panel."""
    for n, (share, only) in enumerate([(0.0, 0), *((1.0, kind) for kind in range(1, len(KEPT))), (0.8, 0)]):
        epilogue = {"residual": n % 3 == 1, "bias": n % 2 > 0, "gated": n % 3 == 2}
        case = case_for(
            integer_kernel,
            config,
            3 + 8 * n,
            (67, 264),
            dtype=dtype,
            share=share,
            only=only,
            seed=n,
            **epilogue,
        )
        for parts in (1, 2 + n):
            check(integer_kernel, case, config, dtype, parts=parts, mode=CopyMode(n % 3), seed=parts)


def test_scales_of_any_size(integer_kernel):
    """int8: up to 1e20 and down to 1e-20, with sums of integers that fp32 holds; rows of zeros have the scale 0."""
    case = case_for(
        integer_kernel, "int8-decode-64", 4, (64, 128), dtype=DTYPES[1], bias=False, share=0.5, seed=2
    )
    factors = np.ldexp(np.float32(1), np.linspace(-60, 60, 64).astype(int)).astype(np.float32)
    factors[5] = 0
    case.packed.scales[:] *= factors
    case.expected[:] *= factors
    case.slack[:] *= factors
    check(integer_kernel, case, "int8-decode-64", DTYPES[1])


PLAIN_DECODER, DECODER = "kernels/decode_integers.cuh", "kernels/decode_integers_of_sixteen.cuh"
INTEGER, EPILOGUE, COPIES = "kernels/integers.cuh", "kernels/epilogue.cuh", "kernels/copies.cuh"
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "integers of fp16 not less their bias": (INTEGER, "0xe400e400u + Bias * 0x10001u", "0xe400e400u"),
    "4 bits of bf16 not less their bias": (INTEGER, "(pair, 0xc300c300u + k", "(pair, 0xc300c300u + 0 * k"),
    "a byte's top bit kept": (INTEGER, "pair & 0xff7fff7fu", "pair"),
    "a byte's top bit the other way": (INTEGER, "(pair & 0x00800080u) ^ 0xc380c380u", "(pair & 0x00800080u) ^ 0xc300c300u"),
    "the first byte twice": (INTEGER, "0x64646464u, 0x4040 | High << 8 | Low)", "0x64646464u, 0x4040 | Low << 8 | Low)"),
    "bits of other integers": (INTEGER, "keep_bits(here, 0x000f000fu,", "keep_bits(here, 0x00ff00ffu,"),
    "higher bits of other integers": (INTEGER, "keep_bits(here, 0x00f000f0u,", "keep_bits(here, 0x00ff00ffu,"),
    "higher bits not less their bias": (INTEGER, "0xd400d400u + kNibbleBias * 0x100010u", "0xd400d400u"),
    "higher bits 16 times too large": (INTEGER, "0x64006400u), 0x2c002c00u, bias)", "0x64006400u), 0x3c003c00u, bias)"),
    "the lower byte's integers for the upper's": (INTEGER, "here = word >> I / 2 * 8", "here = word >> I / 2 * 0"),
    "bits of bf16 not shifted": (INTEGER, "keep_bits(word >> 4 * I,", "keep_bits(word >> 4 * (I & 2),"),
    "scales of the other row": (INTEGER, "select_bytes(words_[m], 0, 0x1010)", "select_bytes(words_[m], 0, 0x3232)"),
    "scales of another row block": (INTEGER, "+ m) * 32 + at.group * 4", "+ 0 * m) * 32 + at.group * 4"),
    "scales of another warp": (INTEGER, "(at.feature_warp * G::kWarpRows + m) * 32", "m * 32"),
    "scales of one row": (INTEGER, "* 32 + at.group * 4", "* 32"),
    "integers without scales": (INTEGER, "T::multiply(integers, pairs_[m][half])", "pairs_[m][half] ? integers : 0"),
    "scales before the values": (PLAIN_DECODER, "slot + kScales, at", "slot, at"),
    "scales of n:16 before the values": (DECODER, "slot + kScales, at", "slot, at"),
    "dense bytes of the first k32": (PLAIN_DECODER, "(k32 * G::kRowBlocks + m) * 512", "m * 512"),
    "words of another row block": (PLAIN_DECODER, "at.fragment / 2 + m * 256", "at.fragment / 2"),
    "K halves exchanged": (PLAIN_DECODER, "words_[m][Step * 2 + k_half]", "words_[m][Step * 2 + 1 - k_half]"),
    "bytes of the low row twice": (PLAIN_DECODER, "bytes<kByteBias, 2, 3>", "bytes<kByteBias, 0, 1>"),
    "4 bits of the low row twice": (PLAIN_DECODER, "template nibbles<i>", "template nibbles<(i & 2)>"),
    "the scale of the low row": (PLAIN_DECODER, "scales_.weights(m, i % 2,", "scales_.weights(m, 0,"),
    "the first step twice": (PLAIN_DECODER, "nibbles<i>(words_[m][Step])", "nibbles<i>(words_[m][0])"),
    "the slab before": (PLAIN_DECODER, "for_each_index<kStepsAhead>", "for_each_index<0>"),
    "metadata of the next slab": (PLAIN_DECODER, "next_places_[m] = load", "places_[m] = load"),
    "metadata of another warp": (PLAIN_DECODER, "kValueBytes + at.fragment / 4", "kValueBytes + at.lane * 4"),
    "metadata where the scales are": (PLAIN_DECODER, "slot + kValueBytes + at", "slot + kScales + at"),
    "pruned ones are not 0": (DECODER, "bytes = select_bytes(bytes, kZeros, own);", "bytes = select_bytes(bytes, 0, own);"),
    "integers of the other edge": (DECODER, "begin + rank : kZero", "begin * 0 + rank : kZero"),
    "shifted by one too few": (DECODER, "4 - count : count)) << 16", "4 - count : count - (count > 0))) << 16"),
    "the table of the first positions for all": (DECODER, "0x0f0f0f0fu, 0x10001000u", "0x0f0f0f0fu, 0u"),
    "even steps twice": (DECODER, "masks_[m] >> Step % 2 * 4", "masks_[m] >> 0"),
    "the mask of the low row for both": (DECODER, "Step / 2 * 8 + half * 16", "Step / 2 * 8 + half * 0"),
    "masks of another row block": (DECODER, "kValueBytes + at.fragment / 4 + m * 128)", "kValueBytes + at.fragment / 4)"),
    "eights of another row block": (DECODER, "slot + at.fragment + m * 512", "slot + at.fragment"),
    "words of eights of another row block": (DECODER, "slot + at.fragment / 2 + m * 256", "slot + at.fragment / 2"),
    "fours of another row block": (DECODER, "rest + at.fragment / 2 + m * 256", "rest + at.fragment / 2"),
    "the rest of another row block": (DECODER, "rest + at.fragment / 4 + m * 128", "rest + at.fragment / 4"),
    "the first 8 again": (DECODER, "rest = slot + kRest", "rest = slot"),
    "fours of the low row": (DECODER, "rest_[m][half];", "rest_[m][0];"),
    "the rest of the other row": (DECODER, "nibbles(rest_[m][0], half)", "nibbles(rest_[m][0], 1 - half)"),
    "ranks 4 to 7 first": (DECODER, "nibbles(packed_[m][half][0], i)", "nibbles(packed_[m][half][0], 1 - i)"),
    "the last window from the first value": (DECODER, "i == 0 ? word(m, half, 1) : rest(m, half)", "word(m, half, i)"),
    "the edge of the step before": (DECODER, "entry<kLast ? 3 : 0>", "entry<kLast ? 2 : 0>"),
    "steps that are not shifted": (DECODER, "window<kLast>(m, half, 1), edge >> 16)", "window<kLast>(m, half, 1), 0x3210)"),
    "the pairs of a step exchanged": (DECODER, "a[2 + half] = scales_", "a[1 - half] = scales_"),
    "sums of int8 not scaled": (EPILOGUE, "v = sums[n][j] * of_row[j / 2];", "v = sums[n][j];"),
    "scales of another panel": (EPILOGUE, "(a.scales + first_row<G>(panel,", "(a.scales + first_row<G>(0 * panel,"),
    "a copy too few": (COPIES, "(G::kSlabBytes + kRound - 1) / kRound", "G::kSlabBytes / kRound"),
}  # fmt: skip
OFTEN = ()
# Warps with two row blocks of both types; and a warp that loads two steps ahead.
COMPILED = ("int8-mid-64", "int4-mid-64", "int4-decode-64")


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_a_broken_decoder_is_caught(tmp_path, library_cache, name):
    plugins = broken_copy(tmp_path, ("kernels", "host"), MUTATIONS.get(name))
    bits = sum(1 << ALL.index(config) for config in COMPILED)
    kernel = compile_host_kernel(library_cache, plugins, (f"PATCH_HOST_CONFIGS={bits}",), opt="-O0")
    assert any(faults(kernel)) != (name == "as it is")


def faults(kernel):
    """Says of a battery of runs which is wrong."""
    for config in COMPILED:
        for n, (tokens, shape, parts) in enumerate(
            [(5, (130, 324), 1), (17, (130, 392), 7), (3, (64, 1000), 3)]
        ):
            for dtype in DTYPES:
                case = case_for(kernel, config, tokens, shape, gated=n == 1, dtype=dtype, share=0.9, seed=n)
                launch = Launch(ALL.index(config), DTYPES.index(dtype), parts, CopyMode.MIXED, seed=parts)
                try:
                    yield case.worst(kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue)) > 1
                except RuntimeError:
                    yield True
