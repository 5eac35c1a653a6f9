"""The lines of PatchLinear's function body that decode slabs of 6:8; see `six_eight` for their content.

The values and positions of the three windows of each group of 8 are put side by side, and a single ScatterElements puts the
values in their columns: each column is in one window.
"""

from __future__ import annotations

from masklearn.masks.kinds.base import TileKind
from masklearn.quant.table import W8A8
from patch_compile.packing.function_of_integers import SPARSE_OF_INT8_INPUTS, integer_lines, lane_lines
from patch_compile.packing.function_of_metadata import OF_K64, MetadataOrder, position_lines
from patch_compile.packing.slab_kinds import SLAB_K

# [g][row half][h]: the nibbles of a half word are every second group.
_MIDDLE = MetadataOrder([8, 2, 1], [0, 1, 3, 2, 4], [1, 2], "4, 1", 8)


def six_eight_lines(prefix: str, kind: TileKind) -> list[str]:
    """Returns lines that compute `<prefix>_slabs` `[slabs, PR, 16, 4]` from `values_<prefix>` and `meta_<prefix>`."""
    p, outer, middle = prefix, f"{prefix}_outer", f"{prefix}_middle"
    words = SLAB_K * kind.kept // kind.group // 4
    return [
        *integer_lines(p, f"values_{p}", W8A8, words),
        f"{p}_shares = Constant <value_ints = [32, 16]> ()",
        f"{p}_sizes = Mul ({p}_shares, PR)",
        f"{outer}_moved, {middle}_moved = Split <axis = 1> ({p}_moved, {p}_sizes)",
        *lane_lines(outer, [-1], *SPARSE_OF_INT8_INPUTS),
        # [row block][g][t // 2][t % 2][row half][byte // 2][byte % 2]
        *lane_lines(middle, [-1], [8, 2, 2, 2, 2, 2], [0, 1, 5, 2, 4, 6, 3, 7]),
        f"{p}_meta_shares = Constant <value_ints = [2, 1]> ()",
        f"{p}_meta_sizes = Mul ({p}_meta_shares, PR)",
        f"{outer}_words, {middle}_words = Split <axis = 1> (meta_{p}, {p}_meta_sizes)",
        *position_lines(f"{outer}_", f"{outer}_words", OF_K64),
        *position_lines(f"{middle}_", f"{middle}_words", _MIDDLE),
        # A group of 8 has four values of the first and the third window, and two of the middle window.
        f"{p}_four = Constant <value_ints = [8, 4]> ()",
        f"{outer}_by_group = Concat <axis = 0> (unknown, PR1, {p}_four)",
        f"{p}_two = Constant <value_ints = [8, 2]> ()",
        f"{middle}_by_group = Concat <axis = 0> (unknown, PR1, {p}_two)",
        f"{outer}_kept = Reshape ({outer}_rows, {outer}_by_group)",
        f"{middle}_kept = Reshape ({middle}_rows, {middle}_by_group)",
        f"{p}_kept = Concat <axis = 3> ({outer}_kept, {middle}_kept)",
        f"{outer}_at = Reshape ({outer}_positions, {outer}_by_group)",
        f"{p}_in_window = Concat <axis = 3> ({outer}_at, {middle}_positions)",
        f"{p}_starts = Constant <value = int32[6] {{0, 0, 4, 4, 2, 2}}> ()",
        f"{p}_at = Add ({p}_in_window, {p}_starts)",
        f"{p}_dims = Shape (values_{p})",
        f"{p}_slab_count = Gather <axis = 0> ({p}_dims, axis0)",
        f"{p}_eight = Constant <value_ints = [8, 8]> ()",
        f"{p}_blank_shape = Concat <axis = 0> ({p}_slab_count, PR1, {p}_eight)",
        f"{p}_blank = Expand (zero_moved, {p}_blank_shape)",
        f"{p}_columns = ScatterElements <axis = 3> ({p}_blank, {p}_at, {p}_kept)",
        f"{p}_slabs = Reshape ({p}_columns, slab_shape)",
    ]
