"""Kernels for w8a8 broken on purpose: the bits of Y, or the emulation, must tell."""

import ml_dtypes
import numpy as np
import pytest

from tests.oracles.int8_products import quantise_inputs
from tests.plugins.configs import ALL, case_for
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.mosaic_cases import DTYPES
from tests.plugins.mutations import broken_copy, named

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

ROUNDS, INPUTS, DECODER = "kernels/quantise_kernel.cuh", "kernels/copy_inputs.cuh", "kernels/decode_bytes.cuh"
EPILOGUE, UNITS, LOOP = "kernels/epilogue.cuh", "kernels/units.cuh", "kernels/multiply.cuh"
STREAM, COPIES, KINDS = "kernels/stream_kernel.cuh", "kernels/copies.cuh", "kernels/kinds.h"
BYTES = "multiply_byte_stream(Sums<G>& acc, int slabs, Ring& ring, const Place<G>& at) {\n  "
# name: (file, correct text, text with the bug)
MUTATIONS = {
    # X as integers
    "rounds without a wait": (ROUNDS, "  wait_for_earlier_launches();\n", ""),
    "a warp's own largest": (ROUNDS, "i < a.warps_per_row; ++i", "i < 1; ++i"),
    "the largest of other rows": (ROUNDS, "of_warps + warp - of_row + i", "of_warps + i"),
    "no barrier between the warps of a row": (ROUNDS, "sync_block();\n  for (int i", "for (int i"),
    "the largest of half a warp": (ROUNDS, "distance = 16;", "distance = 8;"),
    "the largest counts its sign": (ROUNDS, "value & 0x7fffu", "value & 0xffffu"),
    "the largest of the low halves": (ROUNDS, "magnitude(pairs[i / 2] >> 16 * (i % 2))", "magnitude(pairs[i / 2])"),
    "a row of zeros is divided": (ROUNDS, "zeros = m < 0x1p-100f", "zeros = false"),
    "a small row counts as zeros": (ROUNDS, "m < 0x1p-100f", "m <= 0x1p-100f"),
    "the scale of 128": (ROUNDS, "divide(m, 127.f)", "divide(m, 128.f)"),
    "the quotient of 128": (ROUNDS, "divide(127.f, m)", "divide(128.f, m)"),
    "columns of the next row": (ROUNDS, "if (left > 8 * i) load_eight", "if (left > -64) load_eight"),
    "four columns of the next row": (ROUNDS, "left > 8 * i + 4 * half", "left > 8 * i - 60"),
    "four columns too few": (ROUNDS, "left > 8 * i + 4 * half", "left > 8 * i + 4 * half + 4"),
    "the second eight are the first": (ROUNDS, "load_eight(four, p + 8 * i)", "load_eight(four, p)"),
    "the second four are the first": (ROUNDS, "load_four(two, p + 8 * i + 4 * half)", "load_four(two, p + 8 * i)"),
    "pairs of the four before": (ROUNDS, "pairs[2 * i], pairs[2 * i + 1], inverse)", "pairs[i], pairs[i + 1], inverse)"),
    "the high pair is the low one": (ROUNDS, "(i < 2 ? low : high)", "(i < 4 ? low : high)"),
    "bytes in another order": (ROUNDS, "0xffu) << 8 * i;", "0xffu) << 8 * (i ^ 1);"),
    "bytes with their signs": (ROUNDS, "(static_cast<uint32_t>(q) & 0xffu)", "static_cast<uint32_t>(q)"),
    "rows without their padding": (ROUNDS, "row * padded_columns(a.in_features);", "row * a.in_features;"),
    "as many warps for every row": (ROUNDS, "rows_per_block() + warp / a.warps_per_row", "rows_per_block() + warp"),
    # copies of them
    "tokens of the first round": (INPUTS, "from_ + J * kRows * padded", "from_ + 0 * J * kRows * padded"),
    "the first 16 columns four times": (INPUTS, "+ thread_ % kChunks * 16;", "+ 0 * kChunks;"),
    "copies rows without their padding": (INPUTS, "a_.rounded + row * padded_columns(a_.in_features)",
        "a_.rounded + row * a_.in_features"),
    "copies tokens that are not there": (INPUTS, "(to, from, left_ > J * kRows)", "(to, from, left_ > 0)"),
    "copies more than the tile": (INPUTS, "copies ? a_.tokens - row : 0", "copies || row >= 0 ? a_.tokens - row : 0"),
    "the first slab's columns": (INPUTS, "static_cast<int64_t>(column) * kSlabColumns", "0 * column"),
    # operands
    "the first 32 columns twice": (DECODER, "(k32 * G::kRowBlocks + m) * 512", "m * 512"),
    "weights of another warp": (DECODER, "slot + at.fragment + (k32", "slot + at.lane * 16 + (k32"),
    "metadata of another row block": (DECODER, "at.fragment / 4 + m * 128", "at.fragment / 4"),
    "metadata of another warp": (DECODER, "kValueBytes + at.fragment / 4", "kValueBytes + at.lane * 4"),
    "metadata of the values": (DECODER, "slot + kValueBytes + at", "slot + at"),
    "halves of X exchanged": (DECODER, "b[2 * Step], b[2 * Step + 1]", "b[2 - 2 * Step], b[3 - 2 * Step]"),
    "the first step's weights": (DECODER, "multiply_bytes(c, weights_[Step][m]", "multiply_bytes(c, weights_[0][m]"),
    "tokens of another warp": (UNITS, "at.token_warp * G::kWarpTokens * 8 * kSlabColumns", "0"),
    "the first eight tokens": (UNITS, "slot + place + Unit * 8 * kSlabColumns", "slot + place"),
    # six of 8
    "middle windows of another row block": (DECODER, "at.fragment / 2 + m * 256", "at.fragment / 2"),
    "middle windows of another warp": (DECODER, "kMiddleBegin + at.fragment / 2", "kMiddleBegin + at.lane * 8"),
    "first windows for the middle ones": (DECODER, "slot + kMiddleBegin + at", "slot + at"),
    "metadata of first windows for the middle ones": (DECODER, "kMiddlePlaces + row_block * 64",
        "kValueBytes + row_block * 64"),
    "middle windows' metadata of another row block": (DECODER, "at.feature_warp * G::kWarpRows + m;",
        "at.feature_warp * G::kWarpRows;"),
    "middle windows' metadata of the upper rows": (DECODER, "at.quad % 2 * 4", "0 * at.quad"),
    "metadata of the second slab for both": (DECODER, "if (!Odd || at.quad > 1)", "if (!Odd || at.quad >= 0)"),
    "metadata of the first slab for both": (DECODER, "if (!Odd || at.quad > 1)", "if (!Odd)"),
    "columns of the first windows": (DECODER, "b[2 * h + 1], 0x5432)", "b[2 * h + 1], 0x3210)"),
    "columns of the first eight": (DECODER, "select_bytes(b[2 * h], b[2 * h + 1]", "select_bytes(b[0 * h], b[1]"),
    "halves of middle windows exchanged": (DECODER, "a, middle_of(b, 0), middle_of(b, 1),",
        "a, middle_of(b, 1), middle_of(b, 0),"),
    "row halves of middle windows exchanged": (DECODER, "{middle_[m][0], middle_[m][1]}", "{middle_[m][1], middle_[m][0]}"),
    "the second slab in the first one's place": (DECODER, "middle_[m][2 * Odd] = own[0], middle_[m][2 * Odd + 1]",
        "middle_[m][0 * Odd] = own[0], middle_[m][1]"),
    "a last slab without its middle windows": (LOOP, "= 0;\n          multiply_pair(index);", "= 0;"),
    "later middle windows are lost": (LOOP, "      for_each_index<U::kCount, kLate>(multiply_pair);\n", ""),
    "middle windows of one unit are lost": (LOOP, "unit > 0 && unit <= kLate", "unit > 0 && unit < kLate"),
    "the second slab's halves of X exchanged": (LOOP,
        "middle[unit][2] = D::middle_of(b, 0), middle[unit][3] = D::middle_of(b, 1)",
        "middle[unit][2] = D::middle_of(b, 1), middle[unit][3] = D::middle_of(b, 0)"),
    "the first slab's X for the second": (LOOP,
        "        middle[unit][2] = D::middle_of(b, 0), middle[unit][3] = D::middle_of(b, 1);\n",
        "        middle[unit][2] = middle[unit][0] | 0 * b[0], middle[unit][3] = middle[unit][1];\n"),
    "rows of 6:8 slabs as if there were none of 2:4": (COPIES, "(panel_.first[kind] - panel_.ends[kind - 1])",
        "(panel_.first[kind] - panel_.ends[0])"),
    "columns of the first kind": (COPIES, "a_.slabs[kind_].before + row_", "row_"),
    "metadata from the values' begin": (COPIES, "at * own.extra_bytes - own.value_bytes", "at * own.extra_bytes"),
    "a kind too late": (COPIES, "if (i >= panel_.ends[kind - 1]) kind_ = kind",
        "if (i > panel_.ends[kind - 1]) kind_ = kind"),
    "metadata of 2:4's size": (KINDS, '{"6:8", 12, 12}', '{"6:8", 12, 8}'),
    # the loop
    "a turn late": (LOOP, "+ U::kAhead == U::kCount) ring", "+ U::kAhead == U::kCount + 1) ring"),
    "weights of the slab before": (LOOP, "      weights.load(m, ring.slot(), at);\n    }\n", "    }\n"),
    "tokens of the next unit": (LOOP, "m, tokens[unit % U::kSlots]);\n    });",
        "m, tokens[(unit + 1) % U::kSlots]);\n    });"),
    "a slab copied again": (LOOP, "    ring.prepare();  //", "    //"),
    "one slab too many": (LOOP, f"{BYTES}if (slabs <= 0)", f"{BYTES}if (slabs < 0)"),
    # sums and scales
    "partial sums of fp32": (STREAM, "      Sum<G> share[4];", "      float share[4];"),
    "the token's scale first": (EPILOGUE, "of_row[j / 2]), of_token[n][j % 2]);", "of_token[n][j % 2]), of_row[j / 2]);"),
    "one rounding": (EPILOGUE,
        "multiply_alone(multiply_alone(static_cast<float>(sums[n][j]), of_row[j / 2]), of_token[n][j % 2])",
        "static_cast<float>(static_cast<double>(sums[n][j]) * of_row[j / 2] * of_token[n][j % 2])"),
    "one scale for two tokens": (EPILOGUE, "of_token[n][j % 2])", "of_token[n][0])"),
    "the scale of the low row": (EPILOGUE, "load_scale(a.scales + first_row<G>(panel, m, half, at)",
        "load_scale(a.scales + first_row<G>(panel, m, 0, at)"),
    "scales of another panel": (EPILOGUE, "(a.scales + first_row<G>(panel,", "(a.scales + first_row<G>(0 * panel,"),
    "scales of the first tile's tokens": (EPILOGUE, "a.token_scales + token)", "a.token_scales + token - first_token)"),
}  # fmt: skip
OFTEN = ()
COMPILED = ("w8a8-mid-64", "w8a8-decode-64", "w8a8-prefill-64")


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_broken_kernels_are_caught(tmp_path, library_cache, name):
    plugins = broken_copy(tmp_path, ("kernels", "host"), MUTATIONS.get(name))
    bits = sum(1 << ALL.index(config) for config in COMPILED)
    kernel = compile_host_kernel(library_cache, plugins, (f"PATCH_HOST_CONFIGS={bits}",), opt="-O0")
    found = next(faults(kernel), None)
    assert (found is not None) == (name in MUTATIONS), found


def faults(kernel):
    """Gives the faults of a battery of runs, by the bits of Y and by the checks of the emulation."""
    for n, (config, tokens, shape, parts, *gated) in enumerate(
        [
            ("w8a8-decode-64", 5, (130, 324), 1),
            ("w8a8-decode-64", 20, (130, 392), 7),
            ("w8a8-mid-64", 37, (72, 260), 3, True),
            ("w8a8-mid-64", 130, (130, 264), 5, True),
            ("w8a8-prefill-64", 150, (67, 132), 1),
            ("w8a8-decode-64", 20, (64, 1100), 1),  # some warps share a row of X, and the ring turns twice
            ("w8a8-prefill-64", 70, (130, 708), 1),  # pairs of 6:8 slabs, and odd numbers of them
        ]
    ):
        dtype = DTYPES[n % 2]
        case = case_for(
            kernel,
            config,
            tokens,
            shape,
            gated=bool(gated),
            dtype=dtype,
            share=0.7,
            activation="",
            bias=True,
            seed=n,
        )
        launch = Launch(ALL.index(config), n % 2, parts, CopyMode(n % 3), seed=n)
        try:
            y = kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue)
        except RuntimeError as error:
            yield str(error)
            continue
        if not np.array_equal(y, case.bits):
            yield "other bits"
    yield from faults_of_rows(kernel)


def faults_of_rows(kernel):
    """The same of rows of X that have bounds, zeros, infinities or NaN."""
    case = case_for(
        kernel, "w8a8-decode-64", 16, (64, 64), dtype=DTYPES[1], activation="", bias=False, share=0
    )
    x = case.x.view(ml_dtypes.bfloat16).copy()
    x[0], x[1], x[2] = 0, 2.0**-100, 2.0**-101
    x[3, 5], x[4, 7], x[5, 9] = np.inf, np.nan, -np.inf
    launch = Launch(ALL.index("w8a8-decode-64"), 1)
    y = kernel.run(case.packed, x.view(np.uint16), None, launch).view(ml_dtypes.bfloat16).astype(np.float32)
    bad = np.isnan(quantise_inputs(x)[1])
    if not np.isnan(y[bad]).all() or np.isnan(y[~bad]).any():
        yield "NaN in other tokens"
    if y[0].any() or y[2].any() or not y[1].any():
        yield "tokens of zeros"
