"""Kernels broken on purpose. The emulation must catch every bug, so that its silence means something."""

import numpy as np
import pytest

from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.mosaic_cases import make_case, without_panels
from tests.plugins.mutations import broken_copy, named

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

SLABS, OUTPUT, EPILOGUE = "kernels/slabs.cuh", "kernels/output.cuh", "kernels/epilogue.cuh"
COPIES, UNITS, LOOP = "kernels/copies.cuh", "kernels/units.cuh", "kernels/multiply.cuh"
INPUTS = "kernels/copy_inputs.cuh"
DENSE, SPARSE = "kernels/decode_dense16.cuh", "kernels/decode_sparse24.cuh"
ARGUMENTS, STREAMS = "kernels/arguments.h", "kernels/streams.cuh"
TILE, STREAM = "kernels/tile_kernel.cuh", "kernels/stream_kernel.cuh"
PARTS = "kernels/parts.h"
# Products of int8 have a loop like this one (test_byte_faults.py).
STEP = "n = unit % U::kPerStep;\n      "
SWAP = """    for (int n = 0; a.gated && n < G::kWarpTokens; ++n)
      for (int i = 0; i < 2; ++i) std::swap(values[n][i], values[n][2 + i]);
"""
SIXTEEN = "multiply_stream(Sums<G>& acc, int slabs, Ring& ring, const Place<G>& at) {\n  "
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "one wait too few": (LOOP, "wait_copies<G::kStages - 2>();", "wait_copies<G::kStages - 1>();"),
    "one wait too few for the first slab": (LOOP, "shares ? 2 : 1)>();", "shares ? 1 : 0)>();"),
    "no barrier in the loop": (LOOP, "kStages - 2>();\n    sync_block();", "kStages - 2>();"),
    "no barrier before the first slab": (LOOP, "? 2 : 1)>();\n    sync_block();", "? 2 : 1)>();"),
    "a turn late": (LOOP, f"{STEP}if constexpr (later == 0) {{", f"{STEP}if constexpr (later == 1) {{"),
    "a turn early": (LOOP, f"{STEP}if constexpr (later == 0) {{", f"{STEP}if constexpr (later == U::kCount - 1) {{"),
    "fills the slot being read": (LOOP, "    fill_ += read_ == 0", "    shared_ += read_ == 0"),
    "fills one slot before the loop": (LOOP, "      fill_ += G::kStageBytes;", ""),
    "begins the last slot anew": (LOOP, "for_each_index<shares>(", "for_each_index<shares - 1>("),
    "the ring turns back a slot early": (LOOP, "== G::kRingBytes ? 0", ">= G::kRingBytes - G::kStageBytes ? 0"),
    "one buffer for X": (LOOP, "load<unit>(tokens[unit % U::kSlots]", "load<unit>(tokens[0]"),
    "buffers of X exchanged": (LOOP, "= tokens[unit % U::kSlots];", "= tokens[(unit + 1) % U::kSlots];"),
    "one buffer for dense slabs": (DENSE, "load_shared(weights_[Step % kBuffers]", "load_shared(weights_[0]"),
    "buffers of dense slabs exchanged": (DENSE, "c, weights_[Step %", "c, weights_[(Step + 1) %"),
    "one buffer for 2:4 slabs": (SPARSE, "load_shared(weights_[Step]", "load_shared(weights_[0]"),
    "buffers of 2:4 slabs exchanged": (SPARSE, "(c, weights_[Step]", "(c, weights_[1 - Step]"),
    "metadata of the next slab": (SPARSE, "b, places_[m])", "b, next_places_[m])"),
    "no barrier before the output": (TILE, "ring.finish();\n  sync_block();", "ring.finish();"),
    "copies go on over the output": (TILE, "  ring.finish();\n", ""),
    "no barrier inside the output": (OUTPUT, "sync_block();\n  switch", "switch"),
    "empty groups not committed": (LOOP, "    commit_copies();  // also", "    // also"),
    "wrong selector": (SPARSE, "mma_sp<Step>", "mma_sp<1 - Step>"),
    "metadata of another row block": (SPARSE, "/ 4 + m * 128", "/ 4 + (m ^ 1) * 128"),
    "no swizzle when reading": (UNITS, "((chunk ^ (at.lane & 7)) << 4)", "(chunk << 4)"),
    "no swizzle of later steps": (UNITS, "(place ^ (step", "(place + (step"),
    "halves of b exchanged": (LOOP, "m, b[0], b[1])", "m, b[1], b[0])"),
    "the first tokens twice": (LOOP, "m, b[2], b[3])", "m, b[0], b[1])"),
    "the first 16 columns in each step": (UNITS, "step = Unit / kPerStep", "step = 0"),
    "reads tokens that are not there": (INPUTS, "low_left_ > J * kRows", "low_left_ > 0"),
    "reads columns that are not there": (INPUTS, "low_left_ = exists && k < columns ?", "low_left_ = exists ?"),
    "reads half a chunk that is not there": (INPUTS, "columns - k > 4 ?", "columns - k > 0 ?"),
    "reads half of a chunk": (INPUTS, "columns - k > 4 ?", "columns - k > 8 ?"),
    "rows of the tile before": (COPIES, "    copies_.begin_tile(walk_.first_token());\n",
        "    if (!more_) copies_.begin_tile(walk_.first_token());\n"),
    "a column late": (COPIES, "extra_ += extra_bytes_, ++columns_;", "extra_ += extra_bytes_;"),
    "a column late in a tile": (COPIES, "column_ = column(slab_ + 1);", "column_ = column(slab_);"),
    "second 2:4 slab of the panel before": (COPIES, "panel_.first[1] - panel_.ends[0]", "panel_.first[1]"),
    "trusts that a tile has a next column": (COPIES, "(slab < last ? slab : last)", "(last < 0 ? last : slab)"),
    "second slabs of the panel before": (SLABS, "row_ = first + skip;", "row_ = skip;"),
    "the slabs before a part again": (SLABS, "row_ = first + skip;", "row_ = first;"),
    "a run beyond the part": (SLABS, "count - skip < budget_ ? count - skip : budget_", "count - skip"),
    "the part's first tile whole": (SLABS, "budget_ = tile_budget() - slab;", "budget_ = tile_budget();"),
    "each run a part of its own": (SLABS, "        budget_ -= left_;\n", ""),
    "metadata from the values": (COPIES, "? values_ : extra_;", "? values_ : values_;"),
    "half of the metadata": (COPIES, "values_left_ + extra_bytes : 0", "values_left_ + extra_bytes / 2 : 0"),
    "bytes of the run before": (COPIES, "value_bytes_ = slabs.value_bytes,", "value_bytes_ = a_.slabs[0].value_bytes,"),
    "stores tokens that are not there": (OUTPUT, "token < a.tokens && feature <", "feature <"),
    "stores features that are not there": (OUTPUT, "&& out < a.out_features)\n", ")\n"),
    "reads bias that is not there": (EPILOGUE, "feature < a.out_features ? type", "feature < a.out_features + 64 ? type"),
    "bias of the first panel": (EPILOGUE, "load_bias(bias + feature)", "load_bias(bias + feature % G::kPanelRows)"),
    "the gate's bias for the up": (EPILOGUE, "a.bias + static_cast<int64_t>(half * a.gated) * a.out_features", "a.bias"),
    "the up activated": (EPILOGUE, "(values, a.activation, halves_of_y(a))", "(values, a.activation, 2)"),
    "the gate left open": (EPILOGUE, "v *= values[n][2 + j]", "v = values[n][2 + j]"),
    "gate and up swapped": (EPILOGUE, "    activate<G>(values,", f"{SWAP}    activate<G>(values,"),
    "the up shifted by one block": (EPILOGUE, "v *= values[n][2 + j]", "v *= sums[0][n][2 + j]"),
    "the up of other tokens": (EPILOGUE, "v *= values[n][2 + j]", "v *= values[n][3 - j]"),
    "features as if there were no gate": (EPILOGUE, "first_row<G>(panel, m, 0, at) / 2", "first_row<G>(panel, m, 0, at)"),
    "the up stored too": (EPILOGUE, "if (half == halves_of_y(a)) break;", ""),
    "gated panels as far apart as others": (OUTPUT, "G::kPanelRows >> a.gated", "G::kPanelRows >> 0 * a.gated"),
    "what is behind a gated panel's features stored": (OUTPUT, "feature < features_of<G>(a) && ", ""),
    "the residual added twice": (EPILOGUE, "    activate<G>(values,",
        "    if (a.residual) add_residual<T, G>(values, a, type, panel, m, first_token, at);\n    activate<G>(values,"),
    "sums of the first row block for all": (EPILOGUE, "[i % 4] = sums[next][", "[i % 4] = sums[next - 1]["),
    "bias of the first row block for all": (EPILOGUE, "(values, a, type, panel, m, at)", "(values, a, type, panel, 0, at)"),
    "the residual not transposed": (EPILOGUE, "pair = transpose_matrix(pair);", ""),
    "halves of the residual exchanged": (EPILOGUE, "static_cast<uint16_t>(pair >> 16)", "static_cast<uint16_t>(pair)"),
    "reads a residual that is not there": (EPILOGUE, "token < a.tokens && feature <", "feature <"),
    "a pair of the residual across rows": (EPILOGUE, "if (a.y_vector >= 2)  //", "if (true)  //"),
    "GELU without its cube": (EPILOGUE, "0.044715f * x * x * x", "0.044715f * x"),
    "erf where tanh was asked for": (EPILOGUE, "v = gelu_tanh(v)", "v = gelu(v)"),
    "the wrong tail of erfc": (EPILOGUE, "x < 0.f ? tail : 1.f - tail", "x > 0.f ? tail : 1.f - tail"),
    "not transposed": (EPILOGUE, "token, transpose_matrix(pair)", "token, pair"),
    "a stream stores tokens that are not there": (OUTPUT, "first_token + token >= a.tokens || out", "out"),
    "a pair across the end of a row": (OUTPUT, "if (out + 1 < a.out_features) store_value", "store_value"),
    "halves of a pair exchanged": (OUTPUT, "static_cast<uint16_t>(pair >> 16)", "static_cast<uint16_t>(pair)"),
    "parts overlap": (STREAM, "part_slab(s.table, part + 1));", "part_slab(s.table, part + 1) + 1);"),
    "a part ends a tile late": (STREAM, "begin_tile + (stop_slab > 0)", "begin_tile + 1"),
    "a part ends a tile early": (STREAM, "begin_tile + (stop_slab > 0)", "begin_tile"),
    "the last tile of a part whole": (STREAM, "left_ == 1 && stop_ > 0 ? stop_ : panel", "panel"),
    "the part before": (STREAM, "begin_part<G>(s, part);", "begin_part<G>(s, part > 0 ? part - 1 : 0);"),
    "the first column of another part": (STREAM, "part_column(s.table, part),", "part_column(s.table, 0),"),
    "the first column of an empty tile": (COPIES, "if (walk_.moved()) column_", "if (false) column_"),
    "the first token tile": (STREAM, "token_tile(begin_tile - ", "token_tile(0 * begin_tile - 0 * "),
    "the tile does not go on": (STREAM, "    ++tile;\n", ""),
    "shares with one part before": (STREAM, "while (begins && begins_inside(s.first)) --s.first;", ""),
    "shares with one part after": (STREAM, "while (ends && begins_inside(s.last + 1)) ++s.last;", ""),
    "shares with no part before": (STREAM, "part, work.tile, work.slab > 0,", "part, work.tile, false,"),
    "shares with no part after": (STREAM, "work.end < work.panel.slabs())", "false)"),
    "shares over the end of a tile": (STREAM, "part_tile(t, p) == tile &&", "tile >= 0 &&"),
    "a finished tile is not passed over": (PARTS, "if (offset > 0 && p.slab == slabs_in_all(slabs))", "if (false)"),
    "the column of a slab before": (PARTS, "index[kind * pointers + own] + slab]",
        "index[kind * pointers + own]]"),
    "the column of a dense slab": (PARTS, "columns[a.slabs[kind].before + ", "columns["),
    "the table ends a tile early": (PARTS, "static_cast<int32_t>(a.panels * tiles), 0, 0}",
        "static_cast<int32_t>(a.panels * tiles - 1), 0, 0}"),
    "pointers over the parts": (PARTS, "? kPartWords * (a.parts + 1) : -1;", "? kPartWords * a.parts : -1;"),
    "the ring does not pass empty tiles": (SLABS, "    while (tiles_ > 0) {",
        "    for (int turn = 0; turn < 4 && tiles_ > 0; ++turn) {"),
    "a stream that does not wait": (STREAM, "  wait_for_earlier_launches();\n", ""),
    "a tile kernel that does not wait": (TILE, "  wait_for_earlier_launches();\n", ""),
    "a stream lets others read Y early": (STREAM, "  wait_for_earlier_launches();\n",
        "  wait_for_earlier_launches();\n  let_next_launch_begin();\n"),
    "a tile kernel lets others read Y early": (TILE, "  wait_for_earlier_launches();\n",
        "  wait_for_earlier_launches();\n  let_next_launch_begin();\n"),
    "asks for slabs beyond the run": (COPIES, "walk_.left() < G::kStages ? walk_.left() : G::kStages",
        "walk_.left() + G::kStages"),
    "asks for no slabs": (COPIES, "if (thread == 0) request(", "if (thread < 0) request("),
    "asks for metadata of another slab": (COPIES, "request_weights(extra_ + value_bytes_,", "request_weights(extra_,"),
    "no barrier before counting": (STREAM, "  sync_block();  // the block's sums", "  // the block's sums"),
    "counts one block too few": (STREAM, "== last - first;", "== last - first - 1;"),
    "every thread counts": (STREAM, "at.thread == 0 && count_arrival", "at.thread < 2 && count_arrival"),
    "counters not reset": (STREAM, "if (at.thread == 0) reset_counter", "if (false) reset_counter"),
    "two parts share a slot": (STREAM, "(of == first ? 1 : 0)", "0"),
    "the first part left out": (STREAM, "for (int from = first;", "for (int from = first + 1;"),
    "adds to what it has": (STREAM, "  clear<G>(sums);\n  for (int from", "  for (int from"),
    "sums of another fragment": (STREAM, "load_partials(share, partial_sums<G>(a, slot(from), fragment,",
        "load_partials(share, partial_sums<G>(a, slot(from), fragment % G::kWarpTokens,"),
    "a shared tile written by all": (STREAM, "if (!sync_block_any(ends)) return false;", "sync_block_any(ends);"),
    "a kind of slabs beyond the part's end": (LOOP, "p.ends[kind] < end ? p.ends[kind] : end;",
        "end < 0 ? end : p.ends[kind];"),
    # the ring
    "a slot fewer before the loop": (LOOP, "for_each_index<G::kStages - 1>", "for_each_index<G::kStages - 2>"),
    "some threads fill one place": (LOOP, "fill_(shared + place)", "fill_(shared + place % 1024)"),
    "commits before the last share": (LOOP, "if constexpr (Share + 1 != Plan::kFills)", "if constexpr (Share != 0)"),
    "the last share of the copies lost": (LOOP, "if constexpr (Share < Plan::kFills)",
        "if constexpr (Share + 1 < Plan::kFills)"),
    "a slab copied again": (LOOP, "        ring.prepare();\n        ring.turn();\n      }\n      load(",
        "        ring.turn();\n      }\n      load("),
    "slots one further apart": (LOOP, "read_ == 0 ? G::kStageBytes - G::kRingBytes", "read_ == 0 ? -G::kRingBytes"),
    "no swizzle when writing": (INPUTS, "((chunk ^ (row & 7)) << 4)", "(chunk << 4)"),
    # rows and columns of X
    "tokens of the tile's first row": (INPUTS, "tokens_left_ = a_.tokens - row",
        "tokens_left_ = a_.tokens - first_token"),
    "upper halves of tokens that are not there": (INPUTS, "high_left_ > J * kRows", "high_left_ > 0"),
    "rows of the round before": (INPUTS, "static_cast<int64_t>(J * kRows) * a_",
        "static_cast<int64_t>(J / 2 * kRows) * a_"),
    "copies slabs that are not there": (COPIES, "bytes_left_ = exists ? values_left_ + extra_bytes : 0;",
        "bytes_left_ = values_left_ + extra_bytes;"),
    "a stream's column late": (COPIES, "      begin_run();\n    }\n    column_ = load_index(columns_);",
        "      begin_run();\n    } else {\n      column_ = load_index(columns_);\n    }"),
    "X at once whatever its alignment": (ARGUMENTS, "&& aligned(a->x, 16) ? 8", "? 8"),
    "Y in vectors whatever its alignment": (ARGUMENTS, " || !aligned(a->y, 2 * a->y_vector)", ""),
    "pairs of the residual whatever its alignment": (ARGUMENTS, " || !aligned(a->residual, 4))", ")"),
    # kinds of slabs
    "2:4 slabs as far apart as dense ones": (COPIES, "values_ += value_bytes_, extra_",
        "values_ += G::kSlabBytes, extra_"),
    "metadata as far apart as values": (COPIES, "extra_ += extra_bytes_, ++", "extra_ += value_bytes_, ++"),
    "metadata over the values": (COPIES, "extra_bytes_ + copies_.place() - value_bytes_;",
        "extra_bytes_ + copies_.place();"),
    "2:4 slabs decoded as dense": (STREAMS, "using Type = Sparse24<T, G>;", "using Type = Dense16<T, G>;"),
    "dense slabs decoded as 2:4": (LOOP, "using D = Decoder<T, G, kind>;",
        "using D = Decoder<T, G, G::kKinds - 1>;"),
    # operands loaded ahead
    "metadata of the slab before": (LOOP, "    weights.begin_slab();\n", ""),
    "metadata a step late": (SPARSE, "if (Step == 0) next_places_", "if (Step == 1) next_places_"),
    "metadata of another warp": (SPARSE, "at.fragment / 4 +", "at.lane * 4 +"),
    "weights of the first step in each 2:4 step": (SPARSE, "(Step * G::kRowBlocks + m) * 512", "m * 512"),
    "weights of the first step in each dense step": (DENSE, "(Step * G::kRowBlocks + m) * 512", "m * 512"),
    "weights of another warp": (DENSE, "slot + at.fragment +", "slot + at.lane * 16 +"),
    "weights of each unit's first step": (LOOP, "step = unit / U::kPerStep", "step = 0"),
    "sums of the tokens before": (LOOP, "(acc[m][2 * n + 1], m", "(acc[m][2 * n], m"),
    "one slab too many": (LOOP, f"{SIXTEEN}if (slabs <= 0)", f"{SIXTEEN}if (slabs < 0)"),
    "the second slab's operands from the first": (LOOP, "        ring.turn();\n      }\n      load(Index<later>());",
        "      }\n      load(Index<later>());\n      if constexpr (later == 0) ring.turn();"),
}  # fmt: skip
CASES = [  # config, tokens, (rows, columns), parts
    (0, 5, (130, 324), 1),
    (0, 5, (130, 324), 7),
    (0, 37, (67, 260), 3),
    (1, 20, (67, 260), 3),
    (2, 20, (67, 260), 1),
    (0, 20, (70, 328), 2),  # X by 16 bytes
    (2, 130, (64, 520), 1),
]
EPILOGUES = [  # config, tokens, (rows, columns), parts, the epilogue
    (0, 5, (67, 132), 2, {"activation": "gelu", "residual": True}),
    (2, 20, (72, 132), 1, {"activation": "gelu_tanh", "residual": True}),
    (0, 9, (136, 324), 5, {"activation": "silu", "gated": True, "residual": True}),
    (1, 20, (72, 132), 2, {"activation": "silu", "gated": True}),
    (2, 20, (40, 132), 1, {"activation": "silu", "gated": True}),
]
STREAMS_OF_CASES = {0, 1}
CONFIGS = 1 << 0 | 1 << 1 | 1 << 2  # bits of the configurations that are compiled


def bytes_of_slabs(kernel, case, config):
    """Bytes of all slabs, which each tile of tokens reads once."""
    tensors = [one for pair in case.packed.tensors.values() for one in pair if one is not None]
    token_tiles = -(-len(case.x) // list(kernel.configs().values())[config].tokens)
    return token_tiles * sum(one.nbytes for one in tensors)


def faults(kernel):
    """Gives the faults that the checks find in a battery of runs, and results beyond the bound."""
    problems = [(config, make_case(m, shape, 64, seed=m), parts) for config, m, shape, parts in CASES]
    # Panels of one cost, so that parts begin where panels do.
    problems += [(0, make_case(20, (256, 128), 64, share=0), parts) for parts in (2, 4, 8)]
    emptied = make_case(5, (5 * 64, 260), 64, seed=3)
    keep = np.repeat([True, False, False, True, False], 64)
    problems += [(0, without_panels(emptied, keep), parts) for parts in (1, 2, 5)]
    problems.append((0, without_panels(emptied, ~keep), 1))  # its part begins at a tile without slabs
    for config, tokens, shape, parts, epilogue in EPILOGUES:
        problems.append((config, make_case(tokens, shape, 64, seed=tokens, **epilogue), parts))
    launches = [(*problem, {}) for problem in problems]
    for config, offsets in ((0, {"x": 8}), (0, {"y": 2}), (2, {"y": 4}), (0, {"residual": 2})):
        case = make_case(20, (72, 136), 64, activation="gelu", residual=True)
        launches.append((config, case, 2, offsets))
    for config, case, parts, offsets in launches:
        for mode in CopyMode:
            try:
                launch = Launch(config, parts=parts, mode=mode, seed=mode + 1, offsets=offsets)
                y = kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue)
            except RuntimeError as error:
                yield str(error)
                continue
            if case.worst(y) > 1:
                yield "wrong result"
            if launch.stats.weight_bytes != bytes_of_slabs(kernel, case, config):
                yield "a slab was copied that is not multiplied"
            if not launch.stats.requested_bytes and config in STREAMS_OF_CASES:
                yield "no slab was asked for"


# Every run of the tests takes one bug per kind of check; `make mutate` takes all.
OFTEN = (
    "as it is",
    "one wait too few",
    "no barrier in the loop",
    "wrong selector",
    "reads columns that are not there",
    "stores tokens that are not there",
    "counters not reset",
)


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_broken_kernels_are_caught(name, tmp_path, library_cache, kernel):
    if name in MUTATIONS:
        plugins = broken_copy(tmp_path, ("kernels", "host"), MUTATIONS[name])
        defines = (f"PATCH_HOST_CONFIGS={CONFIGS}", "PATCH_HOST_SCALARS=1")  # the battery is in fp16
        kernel = compile_host_kernel(library_cache, plugins, defines, opt="-O1")
    found = next(faults(kernel), None)
    assert (found is not None) == (name in MUTATIONS), found
