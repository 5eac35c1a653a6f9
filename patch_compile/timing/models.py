"""Engines of the timed models. All but the hybrid model's are made for the benchmark, and removed afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.base.durable import temporary_name
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.model.checkpoint import InputSnapshot
from patch_compile.artifacts.bench import Contender
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import (
    BENCH_FOLDER,
    ENGINE,
    ENGINE_NAME,
    ENGINE_REPORT_NAME,
    MASKS,
    ONNX,
    ONNX_NAME,
)
from patch_compile.artifacts.place import check_free_space
from patch_compile.artifacts.plan import Plan
from patch_compile.planning.cost import CostModel
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import ProvenSource
from patch_compile.sources.open import check_unchanged, files_of_model
from patch_compile.sources.plan_task import PlanTask
from patch_compile.timing.device import engine_report


class UniformMasks(Mapping[str, LinearMask]):
    """Masks that are computed on access. All masks together would take a quarter of the weights' memory.

    like: masks of the same linears, which give the tiles; read: returns the weight `[N, K]` of a linear.
    """

    def __init__(self, like: Mapping[str, LinearMask], read: Callable[[str], NDArray[np.float32]]) -> None:
        self._like, self._read = like, read

    def __getitem__(self, name: str) -> LinearMask:
        like = self._like[name]
        pattern = patterns_from_scores(np.abs(self._read(name)))
        return LinearMask.from_candidate(like.tile, np.ones_like(like.tiles), pattern)

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


@contextmanager
def engine_files(
    which: tuple[Contender, ...],
    out: OutFolder,
    source: ProvenSource,
    costs: CostModel | None,
    progress: Progress,
) -> Iterator[dict[Contender, Path]]:
    """Yield the engine of each model. Engines that are made lie in a temporary folder of OUT."""
    engines = {Contender.HYBRID: out.path / ENGINE}
    others = [contender for contender in which if contender is not Contender.HYBRID]
    if not others:
        yield engines
        return
    snapshot = InputSnapshot.of(lambda: _inputs(out, source))
    check_unchanged(source, out, "; or time only the hybrid model: --against none")
    check_free_space(out.path, _needed(out, len(others)))
    folder = out.path / temporary_name(BENCH_FOLDER)
    try:
        for contender in others:
            onnx = write_contender(contender, out, source, costs, folder, progress)
            snapshot.check()
            engines[contender] = build_contender(
                contender, onnx, out, source.recipe, folder / contender.folder, progress
            )
            for part in engines[contender].parent.glob(f"{ONNX_NAME}*"):
                part.unlink()
        yield {contender: engines[contender] for contender in which}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _inputs(out: OutFolder, source: ProvenSource) -> Iterator[Path]:
    yield from files_of_model(source)
    yield _masks_file(out, source.recipe)


def _needed(out: OutFolder, engines: int) -> int:
    """Returns an upper bound of the disk space of engines and their ONNX files in bytes: twice the hybrid model's size and
    the bytes that packing saved."""
    from patch_compile.onnx_io.external import external_files

    plan, onnx = Plan.of(out.path), out.path / ONNX
    hybrid = sum(file.stat().st_size for file in (onnx, *external_files(onnx)))
    return 2 * engines * (hybrid + (plan.saved_bytes if plan else 0))


def write_contender(
    which: Contender,
    out: OutFolder,
    source: ProvenSource,
    costs: CostModel | None,
    folder: Path,
    progress: Progress,
) -> Path:
    """Write the ONNX file of a model that the hybrid model is timed against, and return its path.

    Each model gets its own folder below `folder`. If the source of the build is an ONNX file, that file is the dense
    model. costs: the cost model that OUT was planned by; lowering `auto` needs it.
    """
    path = folder / which.folder / ONNX_NAME
    path.parent.mkdir(parents=True)
    with progress.stage(f"{which} ONNX") as update:
        if which is Contender.DENSE:
            return source.dense_onnx(path)
        masks = UniformMasks(MaskSet.load(_masks_file(out, source.recipe)), source.weight)
        plan = PlanTask.of(source).plan(
            masks, costs, {}
        )  # rounding is the build's own, so its weights have 16 bits
        source.write_hybrid(source.model, masks, plan, path, lambda _: nullcontext(update))
    return path


def build_contender(
    name: str, onnx: Path, out: OutFolder, r: Recipe, folder: Path, progress: Progress
) -> Path:
    """Build the engine of an ONNX file in `folder`, and return its path.

    It takes the backend, targets, shapes and options of OUT's own engine.
    """
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures

    built = engine_report(out)
    expected, engine = expectation_from_onnx(onnx), folder / ENGINE_NAME
    with progress.stage(f"{name} engine") as update:
        report = build_engine(
            onnx,
            engine,
            backend=built.backend,
            targets=parse_architectures(",".join(built.targets)),
            profiles=profiles_from_onnx(onnx, r.min_shapes, r.opt_shapes, r.max_shapes),
            plugin=_plugin(out, expected.kernels) if expected.patch_linears else None,
            expected=expected,
            options=r.engine_options(),
            progress=update,
        )
    report.write(engine.with_name(ENGINE_REPORT_NAME))
    return engine


def _plugin(out: OutFolder, kernels: Collection[str]) -> Path:
    """Returns a library that was compiled here for OUT's GPUs. If there is none, it is compiled now.

    kernels: groups that it has at least; all if they are unknown, as for a graph that does not tell its type.
    """
    from patch_compile.hardware.cards import parse_architectures
    from patch_compile.plugin.build import build_plugin
    from patch_compile.plugin.kernels import KERNELS
    from patch_compile.plugin.targets import archs_for
    from patch_compile.plugin.trust import matching_library

    kernels, built = kernels or KERNELS, engine_report(out)
    sms = [target.sm for target in parse_architectures(",".join(built.targets))]
    library = matching_library(built.backend, built.plugin_version, sms, kernels)
    return library or build_plugin(built.backend, archs=archs_for(sms), kernels=kernels).path


def _masks_file(out: OutFolder, r: Recipe) -> Path:
    """Returns the file of the build's masks. `compile` does not copy the masks into OUT, so they may lie elsewhere."""
    own = out.path / MASKS
    return own if own.is_file() or r.mask is None else r.mask
