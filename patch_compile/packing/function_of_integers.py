"""The lines of PatchLinear's function body that decode quantised weights; see `integers` for the content of slabs.

Integers stay int8 until they are multiplied, because ONNX Runtime keeps all intermediates while it folds constants. int8: X
is multiplied by the integers, and the product by the scale of its row. int4: the weight is T(q·s), rounded once. w8a8: see
`function_of_int8_inputs`.
"""

from __future__ import annotations

from collections.abc import Sequence

from masklearn.quant.table import INT8, WeightType

# 0x80808080 as int32: from q + 128 to the two's complement of q, four bytes at a time.
_FLIP = 0x80808080 - (1 << 32)
# Of the kept bytes of w8a8: [row block][g][t // 2][t % 2][k half][row half][byte // 2][byte % 2]
SPARSE_OF_INT8_INPUTS = [8, 2, 2, 2, 2, 2, 2], [0, 1, 6, 2, 4, 7, 5, 3, 8]


def integer_lines(p: str, tensor: str, weights: WeightType, words: int) -> list[str]:
    """Returns lines that compute `<p>_moved`, the integers of each slab in their stored order, int8 `[slabs, values]`.

    With int4 they compute `<p>_scales` too, fp32 `[slabs, PR]`. words: number of words of a slab's integers, per row of its
    panel.
    """
    lines, values, packed = [], words * 32 // weights.bits, f"{p}_packed"
    if not weights.widened:
        packed = tensor
    elif weights is INT8:
        lines += [
            f"{p}_flip = Constant <value = int32 {{{_FLIP}}}> ()",
            f"{p}_packed = BitwiseXor ({tensor}, {p}_flip)",
        ]
    else:
        lines += [
            f"{p}_slab_shares = Constant <value_ints = [{2 * words}, 1]> ()",
            f"{p}_slab_parts = Mul ({p}_slab_shares, RB8)",
            f"{p}_packed, {p}_scale_words = Split <axis = 1> ({tensor}, {p}_slab_parts)",
            *_scale_lines(p),
        ]
    lines += [
        f"{p}_unsigned = Cast <to = 12> ({packed})",
        f"{p}_lone_axis = Constant <value_ints = [2]> ()",
        f"{p}_lone = Unsqueeze ({p}_unsigned, {p}_lone_axis)",
        f"{p}_shifts = Constant <value = uint32[4] {{0, 8, 16, 24}}> ()",
        f'{p}_shifted = BitShift <direction = "RIGHT"> ({p}_lone, {p}_shifts)',
    ]
    if weights.bits == 8:
        lines.append(f"{p}_integers = Cast <to = 3> ({p}_shifted)")  # keeps the lowest byte
    else:
        lines += [
            f"{p}_lowest = Cast <to = 2> ({p}_shifted)",
            f"{p}_lowest_wide = Cast <to = 6> ({p}_lowest)",
            f"{p}_integers = Gather <axis = 0> (two_nibbles, {p}_lowest_wide)",
        ]
    return [
        *lines,
        f"{p}_per_row = Constant <value_ints = [{values}]> ()",
        f"{p}_per_slab = Mul ({p}_per_row, PR1)",
        f"{p}_flat_shape = Concat <axis = 0> (unknown, {p}_per_slab)",
        f"{p}_moved = Reshape ({p}_integers, {p}_flat_shape)",
    ]


def constant_lines(weights: WeightType, *, bfloat16: bool) -> list[str]:
    """Returns lines that all slabs of int4 need: the integers in a byte, and the numbers with each sign and exponent."""
    if weights.bits == 8:
        return []
    signed = [nibble - 8 for nibble in range(16)]
    table = ", ".join(f"{signed[byte & 15]}, {signed[byte >> 4]}" for byte in range(256))
    digits, bias, exponents = (128, 134, 256) if bfloat16 else (1024, 25, 32)
    # An exponent of 0 has no hidden digit and the unit of exponent 1; the last is of infinity, which no scale is. The sign
    # is the bit above the exponent.
    sizes = [2.0 ** (max(e, 1) - bias) for e in range(exponents)]
    units = ", ".join(repr(size) for size in (*sizes, *(-size for size in sizes)))
    hidden = ", ".join(["0.0", *[f"{digits}.0"] * (exponents - 1)] * 2)
    return [
        "eight = Constant <value = int64 {8}> ()",
        "RB8 = Mul (RB1, eight)",
        f"two_nibbles = Constant <value = int8[256, 2] {{{table}}}> ()",
        f"digits = Constant <value = int32 {{{digits}}}> ()",
        f"units = Constant <value_floats = [{units}]> ()",
        f"hidden = Constant <value_floats = [{hidden}]> ()",
        "scale_places = Constant <value = uint32[2] {0, 16}> ()",
        "scale_mask = Constant <value = uint32 {65535}> ()",
        "scale_head = Constant <value_ints = [-1]> ()",
        "scale_tail = Constant <value_ints = [8, 2]> ()",
        "scale_shape = Concat <axis = 0> (scale_head, RB1, scale_tail)",
        "scale_rows = Concat <axis = 0> (scale_head, PR1)",
    ]


def dense_integer_lines(weights: WeightType) -> list[str]:
    """Returns lines that compute `dense_slabs` `[slabs, PR, 16, 4]`."""
    if weights is INT8:  # [k32][row block][g][t][k16][k half][row half][pair]
        head, tail, perm, words = [-1, 2], [8, 4, 2, 2, 2, 2], [0, 2, 7, 3, 1, 5, 6, 4, 8], 16
    elif not weights.widened:  # [k32][row block][g][t][k half][row half][byte]
        head, tail, perm, words = [-1, 2], [8, 4, 2, 2, 4], [0, 2, 6, 3, 4, 1, 5, 7], 16
    else:  # [row block][g][t][k16][pair][k half][row half]
        head, tail, perm, words = [-1], [8, 4, 4, 2, 2, 2], [0, 1, 7, 2, 4, 6, 3, 5], 8
    return [
        *integer_lines("dense", "dense", weights, words),
        *lane_lines("dense", head, tail, perm),
        "dims_groups = Constant <value_ints = [16, 4]> ()",
        "slab_shape = Concat <axis = 0> (unknown, PR1, dims_groups)",
        "dense_slabs = Reshape (dense_rows, slab_shape)",
    ]


def sparse_integer_lines(weights: WeightType) -> list[str]:
    """Returns lines that compute `kept` `[slabs, PR, 16, 2]`."""
    # [row block][g][t][k32] and then [k half][row half][pair], or of int4 [pair][k half][row half]
    tail, perm = [8, 4, 2, 2, 2, 2], [0, 1, 6, 2, 4, 5, 3, 7] if weights is INT8 else [0, 1, 7, 2, 4, 6, 3, 5]
    if not weights.widened:
        tail, perm = SPARSE_OF_INT8_INPUTS
    return [
        *integer_lines("sparse", "sparse", weights, weights.bits),
        *lane_lines("sparse", [-1], tail, perm),
    ]


def of_rows_lines(*, gated: bool, product: str = "product") -> list[str]:
    """Returns lines that compute `product` from `product_of_integers`, with the scales of output rows."""
    if not gated:
        return [
            "scales_from = Constant <value_ints = [0]> ()",
            "scales_of_rows = Slice (scales, scales_from, N1)",
            f"{product} = Mul (product_of_integers, scales_of_rows)",
        ]
    return [
        "scale_turns = Concat <axis = 0> (unknown, turns)",
        "scales_by_turns = Reshape (scales, scale_turns)",
        "scales_from = Constant <value_ints = [0]> ()",
        "scales_there = Slice (scales_by_turns, scales_from, blocks)",
        "scales_cut = Transpose <perm = [1, 0, 2]> (scales_there)",
        "scales_of_rows = Reshape (scales_cut, unknown)",
        f"{product} = Mul (product_of_integers, scales_of_rows)",
    ]


def of_slabs_lines(prefixes: Sequence[str], *, gated: bool, bfloat16: bool) -> list[str]:
    """Returns lines that compute `weight_f32` from `weight_of_integers` `[K, columns]`, with the scales of int4."""
    parts = ", ".join(f"{p}_scales" for p in prefixes)
    lines = [
        f"scale_slabs = Concat <axis = 0> ({parts})",
        "scale_grid = Gather <axis = 0> (scale_slabs, grid_ids)",
        "scales_from = Constant <value_ints = [0]> ()",
    ]
    if gated:
        lines += [
            "scales_by_slab = Transpose <perm = [1, 0, 2]> (scale_grid)",
            "scale_turns = Concat <axis = 0> (S1, unknown, turns)",
            "scales_by_turns = Reshape (scales_by_slab, scale_turns)",
            "scales_there = Slice (scales_by_turns, scales_from, blocks, axis1)",
            "scales_cut = Transpose <perm = [0, 2, 1, 3]> (scales_there)",
        ]
    else:
        lines += [
            "scales_by_slab = Transpose <perm = [1, 0, 2]> (scale_grid)",
            "scales_whole = Concat <axis = 0> (S1, unknown)",
            "scales_of_all = Reshape (scales_by_slab, scales_whole)",
            "scales_cut = Slice (scales_of_all, scales_from, N1, axis1)",
        ]
    return [
        *lines,
        "one_column = Concat <axis = 0> (S1, one1, unknown)",
        "scales_of_slabs = Reshape (scales_cut, one_column)",
        "by_slab = Concat <axis = 0> (S1, columns64, unknown)",
        "integers_by_slab = Reshape (weight_of_integers, by_slab)",
        "scaled = Mul (integers_by_slab, scales_of_slabs)",
        f"rounded = Cast <to = {16 if bfloat16 else 10}> (scaled)",
        "rounded_f32 = Cast <to = 1> (rounded)",
        "whole_columns = Concat <axis = 0> (K1, unknown)",
        "weight_f32 = Reshape (rounded_f32, whole_columns)",
    ]


def _scale_lines(p: str) -> list[str]:
    """Returns lines that compute the numbers `<p>_scales` of the bits of finite 16-bit numbers."""
    return [
        f"{p}_scale_unsigned = Cast <to = 12> ({p}_scale_words)",
        f"{p}_scale_axis = Constant <value_ints = [2]> ()",
        f"{p}_scale_lone = Unsqueeze ({p}_scale_unsigned, {p}_scale_axis)",
        f'{p}_scale_shifted = BitShift <direction = "RIGHT"> ({p}_scale_lone, scale_places)',
        f"{p}_scale_halves = BitwiseAnd ({p}_scale_shifted, scale_mask)",
        f"{p}_scale_bits = Cast <to = 6> ({p}_scale_halves)",
        f"{p}_scale_blocks = Reshape ({p}_scale_bits, scale_shape)",
        f"{p}_scale_lanes = Transpose <perm = [0, 1, 3, 2]> ({p}_scale_blocks)",
        f"{p}_scale_of_rows = Reshape ({p}_scale_lanes, scale_rows)",
        f"{p}_exponents = Div ({p}_scale_of_rows, digits)",
        f"{p}_rest = Mod ({p}_scale_of_rows, digits)",
        f"{p}_rest_f32 = Cast <to = 1> ({p}_rest)",
        f"{p}_hidden = Gather <axis = 0> (hidden, {p}_exponents)",
        f"{p}_units = Gather <axis = 0> (units, {p}_exponents)",
        f"{p}_digits = Add ({p}_rest_f32, {p}_hidden)",
        f"{p}_scales = Mul ({p}_digits, {p}_units)",
    ]


def lane_lines(p: str, head: list[int], tail: list[int], perm: list[int]) -> list[str]:
    """Returns lines that put `<p>_moved`, in the order of lanes, in the order `<p>_rows`."""
    return [
        f"{p}_head = Constant <value_ints = {head}> ()",
        f"{p}_tail = Constant <value_ints = {tail}> ()",
        f"{p}_shape = Concat <axis = 0> ({p}_head, RB1, {p}_tail)",
        f"{p}_lanes = Reshape ({p}_moved, {p}_shape)",
        f"{p}_rows = Transpose <perm = {perm}> ({p}_lanes)",
    ]
