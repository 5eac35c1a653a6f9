"""Draws the pictures of docs/explanation that show how the program works, from what the program computes.

    python -m docs.draw [--check]

`--check` writes nothing, and exits with 1 if a picture is not what would be drawn.
"""

import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from docs.svg import themed
from masklearn.choice.goal import BYTES
from masklearn.choice.select import select, steps_of, tile_savings
from masklearn.masks.kinds.table import BY_CODE, PRUNED, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.nm_codes import PATTERNS
from patch_compile.packing.format import pack

FOLDER = Path(__file__).parent / "explanation"
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: var(--ink); text-anchor: middle }
.left { text-anchor: start } .small { font-size: 8px } .title { font-weight: 600 }
.paper { fill: var(--paper) }
.dense { fill: var(--dense) } .sparse { fill: var(--sparse) } .marked { fill: var(--accent) }
.zero { fill: var(--paper) } .zero, .room { stroke: var(--rule) } .room { fill: var(--soft) }
.line { fill: none; stroke: var(--muted); stroke-width: 1 }
rect { stroke: var(--paper); stroke-width: .6 }
.sparse + .small, .marked + .small, .sparse + .small + .small, .marked + .small + .small { fill: var(--paper) }
"""
_LANES = 32
_BYTES_OF_A_LOAD = 16


def main(arguments: list[str]) -> int:
    """Draw all pictures, or compare them with those that are there."""
    wrong = []
    for name, draw in PICTURES.items():
        file, drawn = FOLDER / name, draw()
        if "--check" not in arguments:
            file.write_text(drawn)
        elif not file.is_file() or file.read_text() != drawn:
            wrong.append(name)
    if wrong:
        print(f"Not as drawn: {', '.join(wrong)}. Run `python -m docs.draw`.", file=sys.stderr)
    return bool(wrong)


def mosaic() -> str:
    """The tile maps that `select` makes of one set of scores at four ratios, and a corner of a 2:4 tile."""
    rng = np.random.default_rng(4)
    grid = (8, 12)
    scores = np.exp(
        rng.normal(size=grid) + np.linspace(0, 1.5, grid[1])
    )  # as in a model, some columns matter more
    size, parts = 12, []
    for i, ratio in enumerate((0.0, 0.2, 0.35, 0.5)):
        tiles, left, top = _selected(scores, ratio), 20 + 160 * (i % 2), 30 + 150 * (i // 2)
        parts.append(f'<text class="title" x="{left + 6 * size}" y="{top - 10}">ratio {ratio:g}</text>')
        for (row, column), is_sparse in np.ndenumerate(tiles):
            kind = "sparse" if is_sparse else "dense"
            parts.append(_rect(left + column * size, top + row * size, size, kind))
        share = 1 - 0.4375 * tiles.mean()
        parts.append(f'<text x="{left + 6 * size}" y="{top + 16 + 8 * size}">{share:.0%} of the bytes</text>')
    left = 354
    parts.append(f'<text class="title" x="{left + 64}" y="20">inside a 2:4 tile</text>')
    pattern = rng.integers(len(PATTERNS), size=(6, 2))
    for (row, group), code in np.ndenumerate(pattern):
        for k in range(4):
            kept = k in np.flatnonzero(PATTERNS[code])
            parts.append(_rect(left + (4 * group + k) * 16, 30 + row * 16, 16, "sparse" if kept else "zero"))
    for line in range(3):
        x = left + 64 * line
        parts.append(f'<path class="line" d="M{x} 28V128"/>')
    parts.append(f'<text x="{left + 64}" y="142">of each 4 neighbours</text>')
    parts.append(f'<text x="{left + 64}" y="157">at most 2 are kept</text>')
    names = (("dense", "dense tile"), ("sparse", "2:4 tile, kept weight"), ("zero", "zero"))
    for row, (kind, words) in enumerate(names):
        parts.append(_rect(left - 8, 198 + 24 * row, 12, kind))
        parts.append(f'<text class="left" x="{left + 10}" y="{208 + 24 * row}">{words}</text>')
    return _svg(506, 306, parts)


def _selected(scores: NDArray[np.float64], ratio: float) -> NDArray[np.bool_]:
    """The tile map that costs least at a ratio, all tiles of one size."""
    weights = np.full(scores.shape, 128 * 128)
    return select({"linear": scores}, {"linear": weights}, ratio).kinds["linear"] == TWO_FOUR.code


def choosing() -> str:
    """The menu of a tile with the rate at which it is chosen, and the steps of many tiles up to a goal."""
    rng = np.random.default_rng(2)
    kinds = [PRUNED[name] for name in ("12:16", "8:16", "2:4")]
    areas = np.full((4, 5), 128 * 128)
    size = np.exp(rng.normal(scale=0.8, size=areas.shape))
    worse = {"2:4": 1.5}  # than 8:16, which takes as many bytes
    losses = {kind: size * kind.zeros**2 * worse.get(kind.name, 1.0) for kind in kinds}
    savings = {kind: tile_savings(kind, areas, BYTES) / 1024 for kind in kinds}
    steps = steps_of([losses], [savings])
    slopes, saved = steps.cost / steps.saving, np.concatenate(([0.0], np.cumsum(steps.saving)))
    taken = int(np.searchsorted(saved, 0.55 * saved[-1]))
    rate, tile = slopes[taken - 1], int(steps.tile[taken - 1])  # the last tile whose kind changes
    left, bottom = 40, 230
    points = [(0.0, 0.0, "dense")] + [
        (savings[kind].flat[tile], losses[kind].flat[tile], kind.name) for kind in kinds
    ]
    wide, high = 150 / max(x for x, *_ in points), 170 / max(y for _, y, _ in points)
    x, y, chosen = next(point for point in points if point[2] == BY_CODE[int(steps.kind[taken - 1])].name)
    parts = [f'<text class="title left" x="{left}" y="18">the menu of a tile</text>']
    start = left + wide * max(0.0, x - y / rate)
    parts.append(
        f'<path class="line" d="M{start:.1f} {bottom}L{left + wide * x:.1f} {bottom - high * y:.1f}"/>'
    )
    parts.append(f'<path class="line" d="M{left} 40V{bottom}H{left + 190}"/>')
    for at, loss, name in points:
        mark = "marked" if name == chosen else "dense"
        parts.append(_rect(left + wide * at - 4, bottom - high * loss - 4, 8, mark))
        parts.append(
            f'<text class="left" x="{left + wide * at + 7:.1f}" y="{bottom - high * loss + 14:.1f}">{name}</text>'
        )
    parts.append(
        f'<text class="left" x="{left}" y="{bottom + 34}">KiB saved →, loss ↑, line: the rate</text>'
    )
    left, unit, tall = 300, 260 / saved[-1], 170 / slopes.max()
    parts.append(f'<text class="title left" x="{left}" y="18">the steps of 20 tiles</text>')
    for step, slope in enumerate(slopes):
        kind = "sparse" if step < taken else "dense"
        height = tall * slope
        parts.append(
            f'<rect class="{kind}" x="{left + unit * saved[step]:.1f}" y="{bottom - height:.1f}" '
            f'width="{unit * steps.saving[step]:.1f}" height="{height:.1f}"/>'
        )
    goal = left + unit * saved[taken]
    parts.append(
        f'<path class="line" d="M{goal:.1f} 40V{bottom}M{left} {bottom - tall * rate:.1f}H{left + 260}"/>'
    )
    parts.append(f'<text x="{goal:.1f}" y="{bottom + 16}">goal</text>')
    parts.append(f'<text class="left" x="{left}" y="{bottom - tall * rate - 5:.1f}">rate</text>')
    parts.append(
        f'<text class="left" x="{left}" y="{bottom + 34}">KiB saved →, loss per KiB ↑, taken: dark</text>'
    )
    return _svg(590, 280, parts)


def slab() -> str:
    """Draw the place of each weight of a slab: its lane of the warp, and its order there.

    Weights are numbered and packed, and the picture shows where the numbers lie.
    """
    dense, sparse = _places(sparse=False), _places(sparse=True)
    parts = [
        '<text class="title left" x="10" y="18">dense slab: 16 rows × 16 of 64 columns, one mma.m16n8k16</text>',
        *_cells(dense[:16, :16], 10, 28, "dense"),
        '<text class="title left" x="10" y="318">2:4 slab: 16 rows × 32 of 64 columns, one mma.sp.m16n8k32</text>',
        *_cells(sparse[:16, :32], 10, 328, "sparse"),
        '<text class="left" x="300" y="60">Each cell names the lane of the warp that</text>',
        '<text class="left" x="300" y="76">holds it and, below, its place among the</text>',
        '<text class="left" x="300" y="92">8 values that the lane loads at once.</text>',
        '<text class="left" x="300" y="116">Lane 4g + t holds rows g and g + 8.</text>',
        '<text class="left" x="300" y="132">Lane 0 is marked.</text>',
    ]
    return _svg(640, 610, parts)


def _places(*, sparse: bool) -> NDArray[np.int64]:
    """Place of each weight of a slab of 64 × 64 in its packed values, -1 for those that are not stored."""
    numbered = np.arange(1, 64 * 64 + 1, dtype=np.uint16).reshape(64, 64)
    tiles = np.array([[sparse]])
    pattern = np.ones(64 * 16 if sparse else 0, np.uint8)  # 02: the first and the third of each four
    packed = pack(numbered, LinearMask((64, 64), (64, 64), tiles, pattern), panel_rows=64)
    values = (packed.sparse if sparse else packed.dense)[0]
    places = np.full(64 * 64, -1)
    places[values.astype(np.int64) - 1] = np.arange(values.size)
    return places.reshape(64, 64)


def _cells(places: NDArray[np.int64], left: int, top: int, kind: str) -> Iterator[str]:
    values = _BYTES_OF_A_LOAD // 2
    for (row, column), place in np.ndenumerate(places):
        x, y = left + 17 * column, top + 17 * row
        if place < 0:
            yield _rect(x, y, 17, "zero")
            continue
        lane, value = place // values % _LANES, place % values
        yield _rect(x, y, 17, "marked" if lane == 0 else kind)
        yield f'<text class="small" x="{x + 8.5}" y="{y + 8}">{lane}</text>'
        yield f'<text class="small" x="{x + 8.5}" y="{y + 15}">{value}</text>'


def floors(package: str) -> str:
    """Draw the rooms of a package, each row of which may import the rows below it, from the contract in pyproject.toml."""
    found = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (one["layers"] for one in found["contracts"] if one.get("containers") == [package])
    wide, parts = 104, []
    width = 20 + (wide + 8) * max(1 + layer.count(" : ") for layer in layers)
    for row, layer in enumerate(layers):
        rooms, top = layer.split(" : "), 10 + 40 * row
        left = (width - len(rooms) * (wide + 8) + 8) / 2
        for column, room in enumerate(rooms):
            x = left + column * (wide + 8)
            parts.append(f'<rect class="room" x="{x:g}" y="{top}" width="{wide}" height="24" rx="4"/>')
            parts.append(f'<text x="{x + wide / 2:g}" y="{top + 16}">{room}</text>')
        if row:
            parts.append(f'<path class="line" d="M{width / 2:g} {top - 15}v12m-4 -4l4 4l4 -4"/>')
    return _svg(width, 10 + 40 * len(layers), parts)


def _rect(x: float, y: float, size: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}"/>'


def _svg(width: int, height: int, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return "\n".join([head, f"<style>{themed(_STYLE)}</style>", paper, *parts, "</svg>", ""])


PICTURES: dict[str, Callable[[], str]] = {
    "choosing.svg": choosing,
    "mosaic.svg": mosaic,
    "slab.svg": slab,
    **{f"{package}.svg": partial(floors, package) for package in ("patch_compile", "masklearn")},
}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
