"""The lines of PatchLinear's function body that decode metadata of 2:4, a nibble with two positions for each group of 4."""

from __future__ import annotations

from dataclasses import dataclass


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
