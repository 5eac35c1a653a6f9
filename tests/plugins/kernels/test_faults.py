"""Kernels broken on purpose. The emulation must catch every bug, so that its silence means something."""

import numpy as np
import pytest

from tests.plugins.host_kernel import COMPILER, CopyMode, Launch, compile_host_kernel
from tests.plugins.lying_index import LIES, lying
from tests.plugins.mosaic_cases import make_case, without_panels
from tests.plugins.mutations import broken_copy, named

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

SLABS, OUTPUT, EPILOGUE = "kernels/slabs.cuh", "kernels/output.cuh", "kernels/epilogue.cuh"
TILE, STREAM, WORK = "kernels/tile_kernel.cuh", "kernels/stream_kernel.cuh", "kernels/work.h"
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "one wait too few": (SLABS, "wait_copies<G::kStages - 2>();", "wait_copies<G::kStages - 1>();"),
    "no barrier in the loop": (SLABS, "kStages - 2>();\n    sync_block();", "kStages - 2>();"),
    "no barrier before the output": (TILE, "wait_copies<0>();\n  sync_block();", "wait_copies<0>();"),
    "no barrier inside the output": (OUTPUT, "sync_block();\n  switch", "switch"),
    "empty groups not committed": (
        SLABS,
        "kStageBytes);\n    commit_copies();  // also",
        "kStageBytes);\n    // also",
    ),
    "fills the slot being read": (SLABS, "write_ = G::kStages - 1;", "write_ = 0;"),
    "wrong selector": (SLABS, "mma_sp<K32>", "mma_sp<1 - K32>"),
    "metadata of another row block": (SLABS, "block * 128 + at.lane * 4", "(block ^ 1) * 128 + at.lane * 4"),
    "no swizzle when reading": (SLABS, "((chunk ^ (row & 7)) << 4)", "(chunk << 4)"),
    "halves of b exchanged": (
        SLABS,
        "b[n][2 * half], b[n][2 * half + 1]",
        "b[n][2 * half + 1], b[n][2 * half]",
    ),
    "reads tokens that are not there": (SLABS, "+ j * kRows < a.tokens && k <", "+ j * kRows >= 0 && k <"),
    "reads columns that are not there": (
        SLABS,
        "a.tokens && k < static_cast<uint32_t>(a.in_features)",
        "a.tokens",
    ),
    "second 2:4 slab of the panel before": (SLABS, "p.first_sparse + (i - p.dense)", "p.first_sparse + i"),
    "stores tokens that are not there": (OUTPUT, "token < a.tokens && out <", "out <"),
    "stores features that are not there": (OUTPUT, "&& out < a.out_features)\n", ")\n"),
    "reads bias that is not there": (EPILOGUE, "row < a.out_features ? T", "row < a.out_features + 64 ? T"),
    "bias of the first panel": (EPILOGUE, "load_bias(bias + row)", "load_bias(bias + row % G::kPanelRows)"),
    "the gate's bias for the up": (EPILOGUE, "a.bias + static_cast<int64_t>(f) * a.out_features", "a.bias"),
    "the up activated": (EPILOGUE, "activate<G>(sums[0]", "activate<G>(sums[G::kPanels - 1]"),
    "the gate left open": (EPILOGUE, "v *= sums[1][m][n][j]", "v = sums[1][m][n][j]"),
    "the residual added twice": (
        EPILOGUE,
        "  activate<G>(sums[0]",
        "  if (a.residual) add_residual<T, G>(sums[0], a, panel, first_token, at);\n  activate<G>(sums[0]",
    ),
    "the residual not transposed": (EPILOGUE, "pair = transpose_matrix(pair);", ""),
    "halves of the residual exchanged": (
        EPILOGUE,
        "static_cast<uint16_t>(pair >> 16)",
        "static_cast<uint16_t>(pair)",
    ),
    "reads a residual that is not there": (EPILOGUE, "token < a.tokens && feature <", "feature <"),
    "a pair of the residual across rows": (EPILOGUE, "if (a.y_vector >= 2)  //", "if (true)  //"),
    "GELU without its cube": (EPILOGUE, "0.044715f * x * x * x", "0.044715f * x"),
    "erf where tanh was asked for": (EPILOGUE, "v = gelu_tanh(v)", "v = gelu(v)"),
    "the wrong tail of erfc": (EPILOGUE, "x < 0.f ? tail : 1.f - tail", "x > 0.f ? tail : 1.f - tail"),
    "the up's dense slabs into the gate": (
        SLABS,
        "multiply_dense<T, G>(sums[G::kPanels - 1]",
        "multiply_dense<T, G>(sums[0]",
    ),
    "the gate's 2:4 slabs into the up": (SLABS, "i < p.dense + p.gate_sparse", "i < p.gate_sparse"),
    "gate and up not paired": (SLABS, "const int packed = panel * G::kPanels;", "const int packed = panel;"),
    "sums of the gate for the up": (STREAM, "(f * G::kWarpRows + m) * G::kWarpTokens", "m * G::kWarpTokens"),
    "not transposed": (OUTPUT, "transpose_matrix(pair)", "pair"),
    "a stream stores tokens that are not there": (
        OUTPUT,
        "first_token + token >= a.tokens || out",
        "out",
    ),
    "a pair across the end of a row": (OUTPUT, "if (out + 1 < a.out_features) store_value", "store_value"),
    "halves of a pair exchanged": (
        OUTPUT,
        "static_cast<uint16_t>(pair >> 16)",
        "static_cast<uint16_t>(pair)",
    ),
    "parts overlap": (STREAM, "block_index()) + 1, total", "block_index()) + 2, total"),
    "a part begins a slab late": (STREAM, "slabs_before(begin - start,", "slabs_before(begin - start + 1,"),
    "a finished tile is not passed over": (
        STREAM,
        "if (begin > start && slab == panel.dense + panel.sparse) next_tile(a);",
        "",
    ),
    "the wrong panel to begin with": (STREAM, "tiles * cost <= start", "tiles * cost < start"),
    "token tiles of one panel only": (
        STREAM,
        "begin - before * tiles_) / cost",
        "begin - before * tiles_) / cost * 0",
    ),
    "the ring does not pass empty tiles": (
        STREAM,
        "while (slab >= end && more())",
        "if (slab >= end && more())",
    ),
    "no fence before counting": (STREAM, "});\n  fence_device();", "});"),
    "no fence after counting": (STREAM, "return false;\n  fence_device();", "return false;"),
    "no barrier before counting": (STREAM, "sync_block();\n  const bool ends", "const bool ends"),
    "counts one block too few": (STREAM, "== last - first;", "== last - first - 1;"),
    "every thread counts": (STREAM, "at.thread == 0 && count_arrival", "at.thread < 2 && count_arrival"),
    "counters not reset": (STREAM, "if (at.thread == 0) reset_counter", "if (false) reset_counter"),
    "two parts share a slot": (STREAM, "(of == first ? 1 : 0)", "0"),
    "the first part left out": (STREAM, "for (int from = first;", "for (int from = first + 1;"),
    "adds to what it has": (STREAM, "  clear<G>(sums);\n  for (int from", "  for (int from"),
    "sums of another fragment": (
        STREAM,
        "load_partials(share, partial_sums<G>(a, slot(from), fragment,",
        "load_partials(share, partial_sums<G>(a, slot(from), fragment % G::kWarpTokens,",
    ),
    "a shared tile written by all": (
        STREAM,
        "if (!sync_block_any(ends)) return false;",
        "sync_block_any(ends);",
    ),
    "trusts the first slab of a panel": (WORK, "first = at_most(begin, slabs);", "first = begin;"),
    "trusts the number of slabs of a panel": (
        WORK,
        "slabs_until(end, first, slabs - first)",
        "slabs_until(end, first, slabs)",
    ),
    "trusts the gate's slabs": (
        SLABS,
        "packed + 1), first_dense, dense);",
        "packed + 1), first_dense, 1 << 30);",
    ),
    "trusts a column": (SLABS, "k < static_cast<uint32_t>(a.in_features)", "int(k) < a.in_features"),
    "trusts that a panel begins first": (STREAM, "votes > 0 ? (votes - 1) * step : 0", "(votes - 1) * step"),
    "trusts that panels end with the part": (
        STREAM,
        "at_most(panel.number + 1, a.panels - 1)",
        "panel.number + 1",
    ),
    "trusts the place of a tile": (STREAM, "tile >= 0 && tile < tiles_ ?", "true ?"),
    "trusts that a tile ends with the parts": (STREAM, "a.parts), a.parts - 1);", "a.parts), 1 << 30);"),
    "2:4 slabs counted as dense": (WORK, "if (whole <= dense) return", "if (whole <= dense + sparse) return"),
    "the last unit one too early": (WORK, "tile_cost(dense, sparse - 1)", "tile_cost(dense, sparse) - 20"),
}
CASES = [  # config, tokens, (rows, columns), parts
    (0, 5, (130, 324), 1),
    (0, 5, (130, 324), 7),
    (0, 37, (67, 260), 3),
    (1, 20, (67, 260), 3),
    (2, 20, (67, 260), 1),
]
EPILOGUES = [  # config, tokens, (rows, columns), parts, the epilogue
    (0, 5, (67, 132), 2, {"activation": "gelu", "residual": True}),
    (2, 20, (72, 132), 1, {"activation": "gelu_tanh", "residual": True}),
    (6, 9, (130, 324), 5, {"activation": "silu", "gated": True, "residual": True}),
]
LYING = [(0, 37, 1, {}), (0, 37, 5, {}), (2, 20, 1, {}), (6, 37, 3, {"gated": True})]
CONFIGS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 6  # bits of the configurations that are compiled


def faults(kernel):
    """Faults that the checks found in a battery of runs, and results beyond the bound."""
    found = []
    problems = [(config, make_case(m, shape, 64, seed=m), parts) for config, m, shape, parts in CASES]
    emptied = make_case(5, (5 * 64, 260), 64, seed=3)
    keep = np.repeat([True, False, False, True, False], 64)
    problems += [(0, without_panels(emptied, keep), parts) for parts in (1, 2, 5)]
    for config, tokens, shape, parts, epilogue in EPILOGUES:
        problems.append((config, make_case(tokens, shape, 64, seed=tokens, **epilogue), parts))
    for config, case, parts in problems:
        for mode in CopyMode:
            try:
                launch = Launch(config, parts=parts, mode=mode, seed=mode + 1)
                y = kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue)
            except RuntimeError as error:
                found.append(str(error))
                continue
            if case.worst(y) > 1:
                found.append("wrong result")
    return found + lies_found(kernel)


def lies_found(kernel):
    """Accesses out of bounds to which an index leads that lies."""
    found = []
    for config, tokens, parts, how in LYING:
        case = make_case(tokens, (130, 132), 64, **how)
        for lie in LIES:
            launch = Launch(config, parts=parts, index_lies=True)
            try:
                kernel.run(lying(case.packed, lie), case.x, case.bias, launch, **case.epilogue)
            except RuntimeError as error:
                found.append(f"{lie}: {error}")
    return found


# Every run of the tests takes one bug per kind of check; `make mutate` takes all.
OFTEN = (
    "as it is",
    "one wait too few",
    "no barrier in the loop",
    "wrong selector",
    "reads columns that are not there",
    "stores tokens that are not there",
    "parts overlap",
    "no fence before counting",
    "counters not reset",
    "the up activated",
    "the residual not transposed",
)


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_broken_kernels_are_caught(name, tmp_path, library_cache):
    plugins = broken_copy(tmp_path, ("kernels", "host"), MUTATIONS.get(name))
    broken = compile_host_kernel(library_cache, plugins, (f"PATCH_HOST_CONFIGS={CONFIGS}",), opt="-O1")
    assert bool(faults(broken)) == (name in MUTATIONS)
