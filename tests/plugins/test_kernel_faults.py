"""Kernels broken on purpose: the emulation must catch every one, so that its silence means something."""

import shutil

import pytest

from tests.plugins.host_kernel import COMPILER, PLUGINS, CopyMode, Launch, compile_host_kernel
from tests.plugins.mosaic_cases import make_case

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

LINEAR, REDUCE = "kernels/patch_linear.cuh", "kernels/reduce_splits.cuh"
# name: (file, what stands there, what the bug makes of it)
MUTATIONS = {
    "one wait too few": (LINEAR, "wait_copies<G::kStages - 2>();", "wait_copies<G::kStages - 1>();"),
    "no barrier in the loop": (LINEAR, "sync_block();  // this slab has landed", "// this slab has landed"),
    "no barrier before the output": (LINEAR, "sync_block();  // the output tile", "// the output tile"),
    "no barrier inside the output": (LINEAR, "sync_block();\n  switch", "switch"),
    "empty groups not committed": (LINEAR, "    }\n    commit_copies();", "    commit_copies();\n    }"),
    "fills the slot being read": (LINEAR, "write = G::kStages - 1;\n", "write = 0;\n"),
    "wrong selector": (LINEAR, "mma_sp<K32>", "mma_sp<1 - K32>"),
    "metadata of another row block": (LINEAR, "block * 128 + at.lane * 4", "(block ^ 1) * 128 + at.lane * 4"),
    "no swizzle when reading": (LINEAR, "((chunk ^ (row & 7)) << 4)", "(chunk << 4)"),
    "halves of b exchanged": (
        LINEAR,
        "b[n][2 * half], b[n][2 * half + 1]",
        "b[n][2 * half + 1], b[n][2 * half]",
    ),
    "reads tokens that are not there": (LINEAR, "+ j * kRows < a.tokens && k <", "+ j * kRows >= 0 && k <"),
    "reads columns that are not there": (LINEAR, "a.tokens && k < a.in_features", "a.tokens"),
    "stores tokens that are not there": (LINEAR, "token < a.tokens && out <", "out <"),
    "stores features that are not there": (LINEAR, "&& out < a.out_features", ""),
    "reads bias that is not there": (LINEAR, "a.bias && row < a.out_features", "a.bias"),
    "bias of the first panel": (LINEAR, "load_bias(a.bias + row)", "load_bias(a.bias + row % G::kPanelRows)"),
    "not transposed": (LINEAR, "transpose_matrix(pair)", "pair"),
    "parts of K overlap": (LINEAR, "split_index() + 1, a.splits)", "split_index() + 2, a.splits)"),
    "partials of other tokens": (LINEAR, "if (token < a.tokens) store_partial", "store_partial"),
    "last split left out": (REDUCE, "split < a.splits;", "split < a.splits - 1;"),
}
CASES = [  # config, tokens, (rows, columns), splits
    (0, 5, (130, 324), 1),
    (0, 5, (130, 324), 3),
    (1, 20, (67, 260), 1),
]


def faults(kernel):
    """What a battery of runs says: faults found by the checks, or results beyond the bound."""
    found = []
    for config, tokens, shape, splits in CASES:
        case = make_case(tokens, shape, 64, seed=tokens)
        for mode in CopyMode:
            try:
                y = kernel.run(
                    case.packed, case.x, case.bias, Launch(config, splits=splits, mode=mode, seed=mode + 1)
                )
            except RuntimeError as error:
                found.append(str(error))
                continue
            if case.worst(y) > 1:
                found.append("wrong result")
    return found


@pytest.mark.parametrize("name", ["as it is", *MUTATIONS])
def test_broken_kernels_are_caught(name, tmp_path, library_cache):
    plugins = tmp_path / "plugins"
    for folder in ("kernels", "host"):
        shutil.copytree(PLUGINS / folder, plugins / folder)
    if name in MUTATIONS:
        file, before, after = MUTATIONS[name]
        text = (plugins / file).read_text()
        assert text.count(before) == 1, "the mutation no longer fits the source"
        (plugins / file).write_text(text.replace(before, after))
    broken = compile_host_kernel(library_cache, plugins, ("PATCH_HOST_CONFIGS=3",), opt="-O1")
    assert bool(faults(broken)) == (name in MUTATIONS)
