"""Loops over the rows of a linear on a CPU, compiled by numba: choice of codes, kept weights, and elimination.

They compute what the torch operations in `projection` and `obs` compute, which run on other devices. Rows are independent of
each other. Rows of all arrays are contiguous. Arrays of n:16 and of 6:8 have no columns if no tile is of that kind.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.compiled import compiled_arithmetic, inlined

_SPAN, _LANES = 64, 4  # columns of a slab, and its groups of 16
_GROUP, _EIGHT, _FOUR = 16, 8, 4  # columns of a group of 16, of 8, and of 4
_ROWS = 64  # rows that elimination works on at a time
_Floats = NDArray[np.float32]
_Bools = NDArray[np.bool_]
_Bytes = NDArray[np.uint8]
_Codes16 = NDArray[np.int32]


@inlined
def _two_of_four(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Returns the code of the two highest of four scores, without branches; see `nm_codes.patterns_from_scores`."""
    ab, ac, ad, bc, bd, cd = a >= b, a >= c, a >= d, b >= c, b >= d, c >= d
    keep_a, keep_b = ab + ac + ad >= 2, 1 + bc + bd - ab >= 2
    keep_c, keep_d = 2 + cd - ac - bc >= 2, 3 - ad - bd - cd >= 2
    second = 3 * keep_d + (1 - keep_d) * (1 + keep_c)
    return second + (1 - keep_a) * (2 - keep_b) - keep_a


@inlined
def _keeps(code: Any, position: Any) -> Any:
    """Returns True if a 2:4 pattern keeps a position: bits of the patterns 0 to 5, four each, lowest position first."""
    return (0xCA6953 >> (_FOUR * code + position)) & 1 != 0


@inlined
def _column(lane: Any, position: Any) -> Any:
    """Returns the column in its slab of a position of a group of 16, 0 to 3; see `kinds.families`."""
    return position // 4 * 16 + position % 4 // 2 * 8 + 2 * lane + position % 2


@compiled_arithmetic
def _choose_sixteen(scores: Any, kept: Any, keys: Any, codes: Any) -> None:
    """Write the codes that keep the highest scores of the four groups of a slab; see `kinds.families.OfSixteen.best`.

    keys: int64 `[16]`, overwritten.
    """
    bits = scores.view(np.int32)  # of numbers >= 0, in the order of the numbers
    for lane in range(_LANES):
        for position in range(_GROUP):
            # Of equal scores the lower position wins.
            keys[position] = np.int64(bits[_column(lane, position)]) * _GROUP - position
        code = 0
        for position in range(_GROUP):
            rank = 0
            for other in range(_GROUP):
                rank += keys[other] > keys[position]
            code |= (rank < kept[lane]) << position
        codes[lane] = code


@inlined
def _best_of_eight(scores: Any, kept: Any) -> Any:
    """Returns the code that keeps the `kept` highest of 8 scores; see `kinds.families.SixOfEight.best`."""
    code = 0xFF
    for _ in range(_EIGHT - kept):
        lowest, place = np.float32(np.inf), 0
        for position in range(_EIGHT):
            # Of equal scores the higher position is pruned.
            if (code >> position) & 1 and scores[position] <= lowest:
                lowest, place = scores[position], position
        code &= ~(1 << place)
    return code


@compiled_arithmetic
def choose(
    scores: _Floats,
    sparse: _Bools,
    kept16: _Bytes,
    kept8: _Bytes,
    pattern: _Bytes,
    mask16: _Codes16,
    mask8: _Bytes,
) -> None:
    """Write the codes that keep the highest scores `[N, K]` to `pattern`, `mask16` and `mask8`.

    Codes of groups that are not to be pruned 2:4 stay as they are.
    """
    keys = np.empty(_GROUP, np.int64)
    for row in range(scores.shape[0]):
        for i in range(sparse.shape[1]):
            if sparse[row, i]:
                four = scores[row, _FOUR * i : _FOUR * i + _FOUR]
                pattern[row, i] = _two_of_four(four[0], four[1], four[2], four[3])
        for i in range(0, kept16.shape[1], _LANES):
            slab, groups = scores[row, _GROUP * i : _GROUP * i + _SPAN], slice(i, i + _LANES)
            _choose_sixteen(slab, kept16[row, groups], keys, mask16[row, groups])
        for i in range(kept8.shape[1]):
            mask8[row, i] = _best_of_eight(scores[row, _EIGHT * i : _EIGHT * i + _EIGHT], kept8[row, i])


@compiled_arithmetic
def keep(
    sparse: _Bools,
    kept16: _Bytes,
    kept8: _Bytes,
    pattern: _Bytes,
    mask16: _Codes16,
    mask8: _Bytes,
    kept: _Bools,
) -> None:
    """Write the mask of kept weights `[N, K]` to `kept`."""
    for row in range(kept.shape[0]):
        for i in range(sparse.shape[1]):
            code = pattern[row, i]
            for j in range(_FOUR):
                kept[row, _FOUR * i + j] = not sparse[row, i] or _keeps(code, j)
        for i in range(0, kept16.shape[1], _LANES):
            for lane in range(_LANES):
                for position in range(_GROUP):
                    kept[row, _GROUP * i + _column(lane, position)] &= (mask16[row, i + lane] >> position) & 1
        for i in range(kept8.shape[1]):
            for position in range(_EIGHT):
                kept[row, _EIGHT * i + position] &= (mask8[row, i] >> position) & 1


@compiled_arithmetic
def eliminate(
    weight: _Floats,
    factor: _Floats,
    columns: tuple[int, int],
    sparse: _Bools,
    kept16: _Bytes,
    kept8: _Bytes,
    pattern: _Bytes,
    mask16: _Codes16,
    mask8: _Bytes,
    chooses: bool,
    errors: _Floats,
    loss: _Floats,
) -> None:
    """Prune columns of `weight` `[N, K]` in order, and compensate in the later of them; see `obs.solve_linear`.

    columns: the first column, and the column after the last; chooses: False for given codes; errors: receives
    `[N, columns]` for the update of all later columns.
    """
    start, end = columns
    # Some rows at a time, transposed, so that each operation is on a column of them.
    w = np.zeros((end - start, _ROWS), np.float32)
    lost, gone = np.empty((_FOUR, _ROWS), np.float32), np.empty((_SPAN, _ROWS), np.bool_)
    for top in range(0, weight.shape[0], _ROWS):
        rows = slice(top, min(top + _ROWS, weight.shape[0]))
        w[:, : rows.stop - top] = weight[rows, start:end].T
        for at in range(0, end - start, _FOUR):
            group, here = (start + at) // _FOUR, gone[at % _SPAN : at % _SPAN + _FOUR]
            diagonal = factor[start + at : start + at + _FOUR, start:end]
            if at % _SPAN == 0:
                gone[:] = False
                if kept16.shape[1]:
                    i = slice((start + at) // _GROUP, (start + at) // _GROUP + _LANES)
                    pivots = np.diag(factor[start + at : start + at + _SPAN, start + at : start + at + _SPAN])
                    _drop_of_sixteen(w[at:], pivots, kept16[rows, i], chooses, mask16[rows, i], gone)
            if kept8.shape[1] and at % _EIGHT == 0:
                eight = (start + at) // _EIGHT
                pivots = np.diag(factor[start + at : start + at + _EIGHT, start + at : start + at + _EIGHT])
                both = gone[at % _SPAN : at % _SPAN + _EIGHT]
                _drop_of_eight(w[at:], pivots, kept8[rows, eight], chooses, mask8[rows, eight], both)
            _drop_of_four(w[at:], diagonal[:, at:], sparse[rows, group], chooses, pattern[rows, group], here)
            _prune_four(w[at:], diagonal[:, at:], here, lost)
            errors[rows, at : at + _FOUR] = lost[:, : rows.stop - top].T
            for row in range(rows.stop - top):
                a, b, c, d = lost[0, row], lost[1, row], lost[2, row], lost[3, row]
                loss[top + row, group] = a * a + b * b + c * c + d * d
        weight[rows, start:end] = w[:, : rows.stop - top].T


@compiled_arithmetic
def _drop_of_sixteen(w: Any, pivots: Any, kept: Any, chooses: Any, codes: Any, gone: Any) -> None:
    """Mark the weights to prune of a slab, by codes that it chooses first; w: `[columns, rows]`, like `gone`."""
    scores, keys = np.empty(_SPAN, np.float32), np.empty(_GROUP, np.int64)
    for row in range(len(codes)):
        if chooses:
            for column in range(_SPAN):
                scores[column] = (w[column, row] / pivots[column]) ** 2
            _choose_sixteen(scores, kept[row], keys, codes[row])
        for lane in range(_LANES):
            for position in range(_GROUP):
                gone[_column(lane, position), row] = (codes[row, lane] >> position) & 1 == 0


@compiled_arithmetic
def _drop_of_eight(w: Any, pivots: Any, kept: Any, chooses: Any, codes: Any, gone: Any) -> None:
    """Mark the weights to prune of a group of 8, by codes that it chooses first; w: `[columns, rows]`, like `gone`."""
    scores = np.empty(_EIGHT, np.float32)
    for row in range(len(codes)):
        if chooses:
            for column in range(_EIGHT):
                scores[column] = (w[column, row] / pivots[column]) ** 2
            codes[row] = _best_of_eight(scores, kept[row])
        for position in range(_EIGHT):
            gone[position, row] |= (codes[row] >> position) & 1 == 0


@compiled_arithmetic
def _drop_of_four(w: Any, factor: Any, sparse: Any, chooses: Any, codes: Any, gone: Any) -> None:
    """Mark the weights to prune of a group of 4, by codes that it chooses first; w: `[columns, rows]`, like `gone`."""
    best = np.empty(w.shape[1], np.uint8)
    if chooses:
        for row in range(len(best)):
            best[row] = _two_of_four(
                (w[0, row] / factor[0, 0]) ** 2,
                (w[1, row] / factor[1, 1]) ** 2,
                (w[2, row] / factor[2, 2]) ** 2,
                (w[3, row] / factor[3, 3]) ** 2,
            )
    for row in range(len(sparse)):
        if sparse[row]:
            if chooses:
                codes[row] = best[row]
            for j in range(_FOUR):
                gone[j, row] |= not _keeps(codes[row], j)


@compiled_arithmetic
def _prune_four(w: Any, factor: Any, gone: Any, lost: Any) -> None:
    """Prune the first four columns of w `[columns, rows]`, compensate in the later columns, and write the errors."""
    rows = w.shape[1]  # with a constant number LLVM makes no vectors of the loops
    for j in range(_FOUR):
        for row in range(rows):
            lost[j, row] = w[j, row] / factor[j, j] if gone[j, row] else np.float32(0.0)
            w[j, row] = np.float32(0.0) if gone[j, row] else w[j, row]
        for later in range(j + 1, _FOUR):
            for row in range(rows):
                w[later, row] -= lost[j, row] * factor[j, later]
    for later in range(_FOUR, len(w)):
        a, b, c, d = factor[0, later], factor[1, later], factor[2, later], factor[3, later]
        for row in range(rows):
            w[later, row] -= a * lost[0, row] + b * lost[1, row] + c * lost[2, row] + d * lost[3, row]
