"""Files of the timed models. All models but the hybrid model are made for the benchmark, and removed afterwards."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.base.durable import flush_tree
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.model.checkpoint import InputSnapshot
from patch_compile.artifacts.bench import Contender
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import (
    BENCH_MODELS,
    ENGINE,
    ENGINE_NAME,
    ENGINE_REPORT_NAME,
    MASKS,
    ONNX,
    ONNX_NAME,
)
from patch_compile.artifacts.place import check_free_space
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import key_of
from patch_compile.planning.cost import CostModel
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.runtime import Runner
from patch_compile.sources.base import Source
from patch_compile.sources.open import check_unchanged, files_of_model
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


_KEY = "key"


@contextmanager
def model_files(
    which: tuple[Contender, ...],
    runner: Runner,
    out: OutFolder,
    source: Source,
    costs: CostModel | None,
    progress: Progress,
    *,
    keep: bool,
) -> Iterator[dict[Contender, Path]]:
    """Yield the engine or the ONNX file of each model.

    Models that are made go to OUT/bench/models, and are removed at the end unless `keep` is set. A model that an
    earlier run kept there is reused if nothing that it is made of has changed.
    """
    made: list[Path] = []
    found = InputSnapshot.of(lambda: _inputs(out, source) if set(which) - {Contender.HYBRID} else ())
    try:
        if set(which) - {Contender.HYBRID}:
            check_unchanged(source, out, "; or time only the hybrid model: --against none")
            check_free_space(out.path / BENCH_MODELS, _needed(out, which, runner))
        yield {one: _file_of(one, runner, out, source, costs, progress, made, found) for one in which}
    finally:
        for folder in () if keep else made:
            shutil.rmtree(folder, ignore_errors=True)
        home = out.path / BENCH_MODELS
        if home.is_dir() and not any(home.iterdir()):
            home.rmdir()


def _file_of(
    which: Contender,
    runner: Runner,
    out: OutFolder,
    source: Source,
    costs: CostModel | None,
    progress: Progress,
    made: list[Path],
    found: InputSnapshot,
) -> Path:
    engine = runner is Runner.ENGINE
    if which is Contender.HYBRID:
        return out.path / (ENGINE if engine else ONNX)
    home = out.path / BENCH_MODELS / which.folder
    file, key = home / (ENGINE_NAME if engine else ONNX_NAME), _key(which, runner, out, source.recipe, costs)
    if file.is_file() and (home / _KEY).is_file() and (home / _KEY).read_text() == key:
        progress.note(f"{which}: as an earlier run left it in {home}")
        return file
    made.append(home)
    onnx = write_contender(which, out, source, costs, out.path / BENCH_MODELS, progress)
    found.check()
    if engine:
        home.mkdir(parents=True, exist_ok=True)
        built = build_contender(which, onnx, out, source.recipe, home, progress)
        for part in home.glob(f"{ONNX_NAME}*"):
            part.unlink()
        assert built == file
    elif onnx != file:  # the source is an ONNX file itself
        return onnx
    flush_tree(home)  # before the key says that it is whole
    (home / _KEY).write_text(key)
    return file


def _inputs(out: OutFolder, source: Source) -> Iterator[Path]:
    """Yield the files outside OUT that a model is made of."""
    yield from files_of_model(source)
    yield _masks_file(out, source.recipe)


def _key(which: Contender, runner: Runner, out: OutFolder, r: Recipe, costs: CostModel | None) -> str:
    """Returns a hash of everything that a model is made of."""
    settings = r.model_dump(mode="json", exclude={"out"})
    built = EngineReport.of(out.path)
    versions = importlib.metadata.version("patch-compile"), built and built.as_json()
    masks = sha256_of(_masks_file(out, r)) if which is Contender.UNIFORM else None
    return key_of(str(which), str(runner), out.manifest.model.sha256, settings, versions, repr(costs), masks)


def _needed(out: OutFolder, which: tuple[Contender, ...], runner: Runner) -> int:
    """Returns an upper bound of the disk space in bytes: the hybrid model's size and the bytes that packing saved."""
    plan = Plan.of(out.path)
    dense = file_bytes(out.path / ONNX) + (plan.saved_bytes if plan else 0)
    return dense * (len(which) - 1) * (2 if runner is Runner.ENGINE else 1)


def file_bytes(path: Path) -> int:
    """Returns the bytes of an engine, or of an ONNX file with its external data."""
    if path.suffix != ".onnx":
        return path.stat().st_size
    from patch_compile.onnx_io.external import external_files

    return sum(file.stat().st_size for file in (path, *external_files(path)))


def write_contender(
    which: Contender,
    out: OutFolder,
    source: Source,
    costs: CostModel | None,
    folder: Path,
    progress: Progress,
) -> Path:
    """Write the ONNX file of a model that the hybrid model is timed against, and return its path.

    Each model gets its own folder below `folder`. If the source of the build is an ONNX file, that file is the dense
    model. costs: the cost model that OUT was planned by; lowering `auto` needs it.
    """
    path = folder / which.folder / ONNX_NAME
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    with progress.stage(f"{which} ONNX") as update:
        if which is Contender.DENSE:
            return source.dense_onnx(path)
        masks = UniformMasks(MaskSet.load(_masks_file(out, source.recipe)), source.weight)
        plan = source.plan(masks, costs, {})  # rounding is the build's own, so its weights have 16 bits
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
    found = matching_library(built.backend, built.plugin_version, sms, kernels)
    return found or build_plugin(built.backend, archs=archs_for(sms), kernels=kernels).path


def _masks_file(out: OutFolder, r: Recipe) -> Path:
    """Returns the file of the build's masks. `compile` does not copy the masks into OUT, so they may lie elsewhere."""
    own = out.path / MASKS
    return own if own.is_file() or r.mask is None else r.mask
