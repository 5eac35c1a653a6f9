"""The lines of PatchLinear's function body that decode slabs of n:16; see `n16` for their content."""

from __future__ import annotations

from masklearn.quant.table import INT4, INT8, WeightType
from patch_compile.packing.function_of_integers import integer_lines


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
