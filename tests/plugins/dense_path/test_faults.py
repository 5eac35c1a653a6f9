"""The dense path broken on purpose, in its kernels and its host code; every bug must be caught."""

import numpy as np
import pytest

from tests.oracles.element_packing import W8A8, pack_gated, pack_slabs
from tests.plugins.dense_path_cases import MARKS, PIECE, plain_rows, random_bits, random_pair
from tests.plugins.dense_plugin import (
    DENSE_PATH,
    EAGER,
    Activate,
    DensePlugin,
    Linear,
    compile_driver,
    compile_stand_in,
)
from tests.plugins.mosaic_cases import make_case
from tests.plugins.mutations import broken_copy, named

pytestmark = MARKS

UNPACK, ACTIVATE = "kernels/unpack_kernel.cuh", "kernels/activate_kernel.cuh"
BYTES = "kernels/unpack_bytes_kernel.cuh"
PATH, PRODUCT, PIECES = "dense_path/dense_path.cpp", "dense_path/dense_product.cpp", "dense_path/pieces.h"
# name: (file, correct text, text with the bug)
MUTATIONS = {
    "the other row of a fragment": (UNPACK, "chunk % 2 * 2 + row / 8 % 2;", "chunk % 2 * 2 + 1 - row / 8 % 2;"),
    "columns of a fragment exchanged": (UNPACK, "chunk % 2 * 2 + row / 8 % 2;", "2 - chunk % 2 * 2 + row / 8 % 2;"),
    "another row block": (UNPACK, "chunk / 2 * (Rows / 16) + row / 16", "chunk / 2 * (Rows / 16) + row / 32"),
    "both kept values at one place": (UNPACK, "(nibble >> 2 & 3) * 16", "(nibble & 3) * 16"),
    "metadata of the row above": (UNPACK, ">> (16 * half + chunk", ">> (chunk"),
    "metadata of the chunk before": (UNPACK, "+ chunk % 2 * 8)", ")"),
    "the first k32 for both": (UNPACK, "chunk / 4 * (Rows / 16)", "0 * (Rows / 16)"),
    "the first lane for both": (UNPACK, "lane + kept % 2 * 2", "lane"),
    "kept values of the first half": (UNPACK, "kept / 2 * 2 + half", "half"),
    "unpacks without a wait": (UNPACK, "  wait_for_earlier_launches();\n", ""),
    "activates without a wait": (ACTIVATE, "  wait_for_earlier_launches();\n", ""),
    "lets others read Y early": (ACTIVATE, "  wait_for_earlier_launches();\n",
        "  wait_for_earlier_launches();\n  let_next_launch_begin();\n"),
    "no barrier after clearing": (UNPACK, "static_cast<uint32_t>(kNoSlab));\n  sync_block();",
        "static_cast<uint32_t>(kNoSlab));"),
    "no barrier before the places are read": (UNPACK, "  }\n  sync_block();\n", "  }\n"),
    "columns that are not there": (UNPACK, "first + s < a.columns", "first + s < a.columns + 1"),
    "places of columns before": (UNPACK, "column < kUnpackSlabs)", "static_cast<int32_t>(column) < kUnpackSlabs)"),
    "dropped slabs not cleared": (UNPACK, "w[0] = w[1] = w[2] = w[3] = 0;", "w[0] = w[1] = w[2] = w[3] = 1;"),
    "2:4 slabs counted with the dense ones": (UNPACK, "number = slab - own.before;", "number = slab;"),
    "the first panels for every piece": (UNPACK, "a.first_panel + panel", "panel"),
    "the first rows left out": (UNPACK, "j = 0; j < kEach; ++j) store", "j = 1; j < kEach; ++j) store"),
    "the gate's bias for the up": (ACTIVATE, "a.bias + a.out_features + column", "a.bias + column"),
    "the gate for the up": (ACTIVATE, "load_side(up, 1)", "load_side(up, 0)"),
    "the gate left open": (ACTIVATE, "v[i] *= up[i]", "v[i] = up[i]"),
    "columns behind the piece": (ACTIVATE, "  if (column >= a.columns) return;\n", ""),
    "the first token's residual for all": (ACTIVATE, "a.residual + at", "a.residual + column"),
    "the residual before the activation": (ACTIVATE, "  activate_eight(v, a.activation);",
        "  if (a.residual) add_eight<T>(v, a.residual + column);\n  activate_eight(v, a.activation);"),
    "halves of a pair exchanged": (ACTIVATE, "T::narrow(v[2 * i], v[2 * i + 1])", "T::narrow(v[2 * i + 1], v[2 * i])"),
    "rows of W without their padding": (PATH, "columns = padded_columns(p.in_features)", "columns = p.in_features"),
    "the first features' bias for all": (PATH, "a.bias ? a.bias + first", "a.bias ? a.bias"),
    "the first features' residual for all": (PATH, "a.residual ? a.residual + first", "a.residual ? a.residual"),
    "a gated piece's features as far apart as others'": (PATH, "first = first_row >> problem_.gated", "first = first_row"),
    "every piece to the first features": (PATH, "plain ? a.y + first", "plain ? a.y"),
    "the last piece as large as the others": (PATH, "(last ? last_ : whole_)",
        "(last && pieces_.count == 1 ? last_ : whole_)"),
    "cuBLASLt's workspace over the products": (PATH, "workspace + piece_bytes(problem_, epilogue_, pieces_.panels)",
        "workspace + piece_weight_bytes(problem_, pieces_.panels)"),
    "the up where the gate's features end": (PATH, "activate.stride = rows", "activate.stride = rows - 8"),
    "the same panels unpacked for every piece": (PATH, "unpack.first_panel = first_panel", "unpack.first_panel = 0"),
    "no residual": (PRODUCT, "shape_.residual ? 1 : 0", "0"),
    "the residual is what Y holds": (PRODUCT, "shape_.residual ? p.residual : p.d", "p.d"),
    "the bias of the heuristic's": (PRODUCT, "(kBiasPointer, p.bias)", "(kBiasPointer, p.weight)"),
    "W not transposed": (PRODUCT, "  calls.then(name, set(kTransposeA, kTranspose));\n", ""),
    "sums in the order of arrival": (PRODUCT, "  calls.then(name, prefer(kReductionSchemes, kReductionInOrder));\n", ""),
    "cuBLASLt's own alignments": (PRODUCT, "{kAlignmentB, kAlignmentC, kAlignmentD}", "{kAlignmentB}"),
    "bytes of the other k32": (BYTES, "(i / 2 * (Rows / 16)", "((1 - i / 2) * (Rows / 16)"),
    "both kept bytes at one place": (BYTES, "(nibble >> 2 & 3) * 8", "(nibble & 3) * 8"),
    "places of bytes of the row above": (BYTES, "lane + half + i / 2 * 2", "lane + i / 2 * 2"),
    "places of other columns": (BYTES, "(i % 2 * 4 + chunk)", "(i % 2 * 4 + chunk / 2)"),
    "middle columns a byte too early": (BYTES, "four << 16", "four << 8"),
    "middle places of the row above": (BYTES, "row % 8 * 2 + half)", "row % 8 * 2)"),
    "the gate's scales for the up": (ACTIVATE, "a.scales + row, of_token", "a.scales + (column << a.gated), of_token"),
    "scales of tokens left out": (ACTIVATE, "float_of(scale[i])), of_token)", "float_of(scale[i])), 0 * of_token + 1)"),
    "the first piece's scales for all": (PATH, "a.scales + first_row;", "a.scales;"),
    "pieces over rounded X": (PATH, "(workspace) + rounded_bytes(problem_)", "(workspace)"),
    "no memory for rounded X": (PATH, "return rounded_bytes(p) + ", "return "),
    "X is not rounded": (PATH, "launch_rounding(a, scalar_, stream)", "cudaSuccess"),
    "a workspace too small": (PIECES, "std::min(whole, std::max(kPieceBytes, least))", "std::min(whole, least)"),
}  # fmt: skip
# Every run of the tests takes one bug per file; `make mutate` takes all.
OFTEN = ("as it is", "both kept values at one place", "the first features' bias for all")


def unpacking(plugin):
    for seed, (shape, rows, share) in enumerate(
        [((130, 324), 64, 0.5), ((200, 260), 128, 0.5), ((64, 580), 64, 0.7)]
    ):
        rng = np.random.default_rng(seed)
        sparse = rng.random((-(-shape[0] // rows), -(-shape[1] // 64))) < share
        bits = random_bits(rng, shape, sparse, rows)
        expected, packed = plain_rows(bits, sparse, rows), pack_slabs(bits, sparse, rows)
        yield (plugin.unpack(packed) == expected).all()
        yield (plugin.unpack(packed, len(sparse) - 1, 1) == expected[-rows:]).all()
    rng = np.random.default_rng(9)
    sparse = rng.random((5, 4)) < 0.5
    bits, in_turns = random_pair(rng, (152, 256), sparse, 64)
    yield (plugin.unpack(pack_gated(bits, sparse, 64)) == plain_rows(in_turns, sparse, 64)).all()
    none = pack_slabs(np.zeros((64, 64), np.uint16), np.zeros((1, 1), bool), 64)
    index = np.zeros(4, np.int32)  # its only slab dropped
    empty = type(none)(none.shape, 64, none.dense[:0], none.sparse, none.meta, index)
    yield not plugin.unpack(empty).any()


def activating(plugin):
    """Two tokens with a residual, whose columns end inside a block."""
    z = np.arange(2 * 128, dtype=np.float16).reshape(2, 128) / 64
    residual = np.linspace(-1, 1, 80).astype(np.float16).reshape(2, 40)
    given = {"z": z, "residual": residual, "y": np.zeros((2, 40), np.float16)}
    sizes = Activate(*[None] * 6, 2, 40, 128, 40, 0, 0)
    y = plugin.activate({name: t.view(np.uint16) for name, t in given.items()}, sizes, 0).view(np.float16)
    yield np.allclose(y, z[:, :40] + residual, atol=2e-3)


def whole(plugin):
    for seed, how in enumerate(
        (
            {},
            {"residual": True},
            {"activation": "gelu", "residual": True},
            {"gated": True, "activation": "silu", "residual": True},
            {"integers": W8A8, "kinds": 3, "share": 0.8},
            {"integers": W8A8, "kinds": 3, "gated": True},
        )
    ):
        rounded = bool(how.get("activation"))
        case = make_case(300, (264, 328), 64, seed=seed, rounded=rounded, **how)
        linear = Linear.of(case)
        made = plugin.configured(linear)
        ready = plugin.set_tactic(made, DENSE_PATH) == 0 and plugin.shapes(made, linear) == 0
        code, y = plugin.enqueue(made, case, plugin.workspace(made, linear), offset=16)
        kernels, _, _ = plugin.launched()
        yield ready and code == 0 and kernels == 0 and case.worst(y) <= 1


def faults(plugin):
    """Faults that the checks found in a battery of runs, and the batteries with wrong results."""
    found = []
    for battery in (unpacking, activating, whole):
        try:
            found += [battery.__name__ for right in battery(plugin) if not right]
        except (RuntimeError, AssertionError) as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("name", named(MUTATIONS, OFTEN))
def test_a_broken_dense_path_is_caught(name, tmp_path, library_cache, monkeypatch):
    plugins = broken_copy(tmp_path, ("kernels", "host", "dense_path", "tensorrt"), MUTATIONS.get(name))
    driver = compile_driver(library_cache, plugins, (f"PATCH_PIECE_BYTES={PIECE}", "PATCH_KERNEL_CLOCKS=0"))
    monkeypatch.setenv("PATCH_CUBLASLT", str(compile_stand_in(library_cache)))
    plugin = DensePlugin(driver, tmp_path)
    plugin.device(EAGER)
    assert bool(faults(plugin)) == (name in MUTATIONS)
