"""Draws the quality of each build against an axis, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch_compile.compare.axis import Axis
from patch_compile.compare.builds import Build
from patch_compile.compare.labels import label_spots
from patch_compile.compare.pareto import DENSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

# Okabe and Ito, "Color Universal Design" (2008): distinct with any kind of colour vision. A method has a marker too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GREY, _INK = "#767676", "#222222"
# Largest over smallest loss that still gets a linear axis: above it the low end would be flat.
_LOGARITHMIC = 6.0
_DPI = 160


def draw(
    builds: Sequence[Build], axis: Axis, beaten: Mapping[str, str | None], files: Sequence[Path]
) -> None:
    """Write the picture to each of the files, in the format of its suffix. beaten: result of `beaten_by`."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text as shapes looks alike everywhere, and the same builds give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "patch-compile", "font.size": 9.5}):
        figure = Figure(figsize=(7.4, 5.0), dpi=_DPI, layout="constrained")
        _plot(figure, builds, axis, beaten)
        for file in files:
            part = file.with_name(f".{file.name}.part")
            metadata = {"Date": None} if file.suffix == ".svg" else {}
            figure.savefig(part, format=file.suffix[1:], metadata=metadata)
            part.replace(file)


def _plot(figure: Figure, builds: Sequence[Build], axis: Axis, beaten: Mapping[str, str | None]) -> None:
    axes = figure.add_subplot()
    quality = builds[0].quality
    methods = list(dict.fromkeys(build.method for build in builds))
    for build in builds:
        number = methods.index(build.method)
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            axis.values[build.name],
            build.quality.value,
            linestyle="",
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=8,
            color=colour,
            markerfacecolor="white" if beaten[build.name] else colour,
            markeredgewidth=1.6,
            zorder=3,
        )
    axes.plot(axis.dense, quality.dense, linestyle="", marker="*", markersize=13, color=_INK, zorder=3)
    axes.axhline(quality.dense, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    _pareto_line(axes, builds, axis, beaten)
    _frame(axes, builds, axis)
    axes.legend(handles=_legend(methods, [beaten[build.name] for build in builds]), loc="best", frameon=False)
    spots = [("dense", (axis.dense, quality.dense))]
    spots += [(build.name, (axis.values[build.name], build.quality.value)) for build in builds]
    label_spots(figure, axes, spots)


def _pareto_line(axes: Axes, builds: Sequence[Build], axis: Axis, beaten: Mapping[str, str | None]) -> None:
    quality = builds[0].quality
    best = [(axis.values[b.name], b.quality.value) for b in builds if not beaten[b.name]]
    dense = [] if beaten[DENSE] else [(axis.dense, quality.dense)]
    line = sorted([*dense, *best], key=lambda spot: axis.sign * spot[0])
    axes.plot(*zip(*line, strict=True), color=_GREY, linewidth=1.4, zorder=2)


def _frame(axes: Axes, builds: Sequence[Build], axis: Axis) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    quality = builds[0].quality
    values = [quality.dense, *(build.quality.value for build in builds)]
    if min(values) > 0 and max(values) / min(values) > _LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # 200, not 2·10²
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.14, y=0.16)
    if axis.sign < 0:
        axes.invert_xaxis()  # better is to the right in every picture
    axes.set_xlabel(axis.label, color=_INK)
    axes.set_ylabel(f"{quality.what} (lower is better)", color=_INK)
    name = Path(builds[0].model).stem
    axes.set_title(f"{name}: {quality.what} on {quality.on}", fontsize=9.5, color=_INK, loc="left")
    axes.grid(color="#e4e4e4", linewidth=0.6, zorder=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(methods: Sequence[str], beaten: Sequence[str | None]) -> list[Any]:
    """Returns the legend's entries. beaten: the build that beats each build, None for a Pareto point."""
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", label=label, **style)

    handles = [
        mark(method, marker=_MARKERS[i % len(_MARKERS)], color=_COLOURS[i % len(_COLOURS)], markersize=8)
        for i, method in enumerate(methods)
    ]
    if None in beaten:
        handles.append(Line2D([], [], color=_GREY, linewidth=1.4, label="Pareto points"))
    if any(beaten):
        handles.append(
            mark("beaten by another", marker="o", color=_GREY, markerfacecolor="white", markersize=8)
        )
    return handles
