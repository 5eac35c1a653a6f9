"""The lines of PatchLinear's function body that decode sparse slabs; see `n16` and `six_eight` for their content.

Metadata of 2:4 are a nibble with two positions for each group of 4. The values and positions of the three windows of each
group of 6:8 are put side by side, and a single ScatterElements puts the values in their columns: each column is in one
window.
"""

from __future__ import annotations

from dataclasses import dataclass

from masklearn.masks.kinds.base import TileKind
from masklearn.quant.table import INT4, INT8, W8A8, WeightType
from patch_compile.packing.function_of_integers import SPARSE_OF_INT8_INPUTS, integer_lines, lane_lines
from patch_compile.packing.slab_kinds import SLAB_K


@dataclass(frozen=True)
class MetadataOrder:
    """Order of the words of metadata.

    dims: of the words of a row block; perm: from words, with an axis for their halves, to rows; words: shape of a row's half
    words; units: shape of the four nibbles of a half word; groups: of a row.
    """

    dims: list[int]
    perm: list[int]
    words: list[int]
    units: str
    groups: int = 16

    @property
    def axis(self) -> int:
        """The axis of the halves of a word."""
        return len(self.perm) - 1


# [g][t][row half]: four neighbouring groups are in a half word.
OF_K32 = MetadataOrder([8, 4, 1], [0, 1, 4, 2, 3], [4, 1], "4")
# [g][k half][row half][group // 4]: every fourth group is in a half word.
OF_K64 = MetadataOrder([8, 2, 2, 1], [0, 1, 4, 2, 3, 5], [1, 4], "4, 1")

# Lines that position_lines needs once.
CONSTANTS = (
    "half_word = Constant <value = int32 {65536}> ()",
    "sixteen32 = Constant <value = int32 {16}> ()",
    "position_table = Constant <value = int32[16, 2] {"
    + ", ".join(f"{nibble & 3}, {nibble >> 2}" for nibble in range(16))
    + "}> ()",
)


def position_lines(p: str, tensor: str, order: MetadataOrder) -> list[str]:
    """Returns lines that compute `<p>positions` `[slabs, PR, groups, 2]` from the words of `tensor`, `[slabs, words]`.

    They also compute the shapes of words in a row block `<p>meta_shape`, and of half words in a row `<p>word_shape`.
    """
    return [
        f"{p}dims_meta = Constant <value_ints = {order.dims}> ()",
        f"{p}meta_shape = Concat <axis = 0> (unknown, RB1, {p}dims_meta)",
        f"{p}meta_lanes = Reshape ({tensor}, {p}meta_shape)",
        f"{p}low_half = Mod ({p}meta_lanes, half_word)",
        f"{p}high_up = Sub ({p}meta_lanes, {p}low_half)",
        f"{p}high_signed = Div ({p}high_up, half_word)",
        f"{p}high_half = Mod ({p}high_signed, half_word)",
        f"{p}meta_halves = Concat <axis = {order.axis}> ({p}low_half, {p}high_half)",
        f"{p}meta_rows = Transpose <perm = {order.perm}> ({p}meta_halves)",
        f"{p}words_per_row = Constant <value_ints = {order.words}> ()",
        f"{p}word_shape = Concat <axis = 0> (unknown, PR1, {p}words_per_row)",
        f"{p}row_words = Reshape ({p}meta_rows, {p}word_shape)",
        f"{p}nibble_units = Constant <value = int32[{order.units}] {{1, 16, 256, 4096}}> ()",
        f"{p}nibbles_up = Div ({p}row_words, {p}nibble_units)",
        f"{p}nibbles = Mod ({p}nibbles_up, sixteen32)",
        f"{p}groups_of_row = Constant <value_ints = [{order.groups}]> ()",
        f"{p}group_shape = Concat <axis = 0> (unknown, PR1, {p}groups_of_row)",
        f"{p}group_nibbles = Reshape ({p}nibbles, {p}group_shape)",
        f"{p}positions = Gather <axis = 0> (position_table, {p}group_nibbles)",
    ]


def of_sixteen_lines(prefix: str, kept: int, widen: str, weights: WeightType | None = None) -> list[str]:
    """Returns lines that compute `<prefix>_slabs` `[slabs, PR, 16, 4]` from `values_<prefix>` and `masks_<prefix>`.

    A mask's set bits are the places of the kept values, in their order: NonZero gives the places of all groups at once, and
    a single ScatterElements puts all values there. widen: the operator that makes values of a type that ONNX Runtime moves;
    weights: int8 or int4, None for 16-bit values.
    """
    p = prefix
    lines, planes = _planes(p, kept, widen, weights)
    return [
        *lines,
        f"{p}_kept = Concat <axis = 3> ({', '.join(planes)})",
        f"{p}_kept_flat = Reshape ({p}_kept, unknown)",
        f"{p}_words = Reshape (masks_{p}, meta_shape)",
        f"{p}_low = Mod ({p}_words, half_word)",
        f"{p}_high_up = Sub ({p}_words, {p}_low)",
        f"{p}_high_signed = Div ({p}_high_up, half_word)",
        f"{p}_high = Mod ({p}_high_signed, half_word)",
        f"{p}_halves = Concat <axis = 4> ({p}_low, {p}_high)",
        f"{p}_rows = Transpose <perm = [0, 1, 4, 2, 3]> ({p}_halves)",
        f"{p}_codes = Reshape ({p}_rows, word_shape)",
        f"{p}_byte_units = Constant <value = int32[2] {{1, 256}}> ()",
        f"{p}_bytes_up = Div ({p}_codes, {p}_byte_units)",
        f"{p}_byte = Constant <value = int32 {{256}}> ()",
        f"{p}_bytes = Mod ({p}_bytes_up, {p}_byte)",
        # The eight bits of each byte, from a table: one byte of memory for each weight.
        f"{p}_first = Constant <value = int32 {{0}}> ()",
        f"{p}_step = Constant <value = int32 {{1}}> ()",
        f"{p}_all = Range ({p}_first, {p}_byte, {p}_step)",
        f"{p}_all1 = Unsqueeze ({p}_all, axis1)",
        f"{p}_bit_units = Constant <value = int32[8] {{1, 2, 4, 8, 16, 32, 64, 128}}> ()",
        f"{p}_bits_up = Div ({p}_all1, {p}_bit_units)",
        f"{p}_base = Constant <value = int32 {{2}}> ()",
        f"{p}_bits = Mod ({p}_bits_up, {p}_base)",
        f"{p}_table = Cast <to = 9> ({p}_bits)",
        f"{p}_set = Gather <axis = 0> ({p}_table, {p}_bytes)",
        f"{p}_set_flat = Reshape ({p}_set, unknown)",
        f"{p}_at = NonZero ({p}_set_flat)",
        f"{p}_at_flat = Reshape ({p}_at, unknown)",
        f"{p}_size = Shape ({p}_set_flat)",
        f"{p}_blank = Expand (zero_moved, {p}_size)",
        f"{p}_spread = ScatterElements <axis = 0> ({p}_blank, {p}_at_flat, {p}_kept_flat)",
        # A group is [step: 4][k half: 2][pair: 2] of lane t, and a row of a slab is [step][k half][t][pair].
        f"{p}_group = Constant <value_ints = [4, 4, 2, 2]> ()",
        f"{p}_group_shape = Concat <axis = 0> (unknown, PR1, {p}_group)",
        f"{p}_grouped = Reshape ({p}_spread, {p}_group_shape)",
        f"{p}_columns = Transpose <perm = [0, 1, 3, 4, 2, 5]> ({p}_grouped)",
        f"{p}_slabs = Reshape ({p}_columns, slab_shape)",
    ]


def _planes(p: str, kept: int, widen: str, weights: WeightType | None) -> tuple[list[str], list[str]]:
    """Returns lines that put the planes of the values in the order of rows, `[slabs, PR, 4, k]`, and their results."""
    sizes = {"eight": 32 * (kept // 8), "four": 16 * (kept % 8 >= 4)}
    sizes = {name: size for name, size in sizes.items() if size}  # values in a row of a slab, of four groups
    parts = [f"{p}_{name}" for name in sizes]
    moved = [f"{p}_moved = {widen} (values_{p})"]
    if weights is not None:
        moved = integer_lines(p, f"values_{p}", weights, kept * weights.bits // 8)
    lines = [
        *moved,
        f"{p}_row_sizes = Constant <value_ints = {list(sizes.values())}> ()",
        f"{p}_sizes = Mul ({p}_row_sizes, PR)",
        f"{', '.join(parts)} = Split <axis = 1> ({p}_moved, {p}_sizes)",
    ]
    for name, part, size in zip(sizes, parts, sizes.values(), strict=True):
        head, tail, perm = _order(name, size // 4, weights)
        lines += [
            f"{part}_head = Constant <value_ints = {head}> ()",
            f"{part}_tail = Constant <value_ints = {tail}> ()",
            f"{part}_shape = Concat <axis = 0> ({part}_head, RB1, {part}_tail)",
            f"{part}_lanes = Reshape ({part}, {part}_shape)",
            f"{part}_rows = Transpose <perm = {perm}> ({part}_lanes)",
            f"{part}_of_row = Constant <value_ints = [4, {size // 4}]> ()",
            f"{part}_row_shape = Concat <axis = 0> (unknown, PR1, {part}_of_row)",
            f"{part}_kept = Reshape ({part}_rows, {part}_row_shape)",
        ]
    return lines, [f"{part}_kept" for part in parts]


def _order(plane: str, values: int, weights: WeightType | None) -> tuple[list[int], list[int], list[int]]:
    """Returns the axes before and behind [row block], and their order in rows: [row block][row half][g][t][plane][rank]."""
    if plane == "eight" and weights is None:  # [plane][row half][row block][g][t][8]
        return [-1, values // 8, 2], [8, 4, 8], [0, 3, 2, 4, 5, 1, 6]
    if plane == "eight" and weights is INT8:  # [plane][row block][g][t][row half][8]
        return [-1, values // 8], [8, 4, 2, 8], [0, 2, 5, 3, 4, 1, 6]
    if plane == "eight":  # [plane][row block][g][t][row half][rank % 4][rank // 4]
        return [-1, values // 8], [8, 4, 2, 4, 2], [0, 2, 5, 3, 4, 1, 7, 6]
    if weights is INT4:  # [row block][g][t][4][row half]
        return [-1], [8, 4, values, 2], [0, 1, 5, 2, 3, 4]
    return [-1], [8, 4, 2, values], [0, 1, 4, 2, 3, 5]  # [row block][g][t][row half][4]


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
