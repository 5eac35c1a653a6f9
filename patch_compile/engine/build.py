"""Engine stage: builds and checks an engine from an ONNX file with PatchLinear nodes, and copies the plugin next to it."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from masklearn.base.durable import whole_file
from patch_compile.artifacts.bench import Library
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.engine.backend import Backend, BackendName, load_backend
from patch_compile.engine.check import check_programs
from patch_compile.engine.expectation import PlanExpectation
from patch_compile.engine.network import BuildJob, Cancellation, OnBuildStep, sparse_tactics, write_engine
from patch_compile.engine.options import HARDWARE, VERSIONS, EngineOptions
from patch_compile.engine.plan_program import inspect_engine, read_programs
from patch_compile.engine.plugin_library import load_plugin
from patch_compile.engine.profiles import Profile
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.hardware.cards import GpuArchitecture
from patch_compile.plugin.identity import check_kernels, read_identity
from patch_compile.plugin.prebuilt import LIBRARY_NAME
from patch_compile.plugin.trust import remember_engine


class BuildCancelledError(PatchCompileError):
    """The progress callback stopped the build; nothing was written."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("The build was cancelled", "Nothing was written.", "Start it again.")


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    *,
    backend: Backend | str,
    targets: tuple[GpuArchitecture, ...],
    profiles: tuple[Profile, ...],
    plugin: Path | None,
    expected: PlanExpectation,
    options: EngineOptions | None = None,
    progress: OnBuildStep | None = None,
) -> EngineReport:
    """Build, check and write an engine, and copy the plugin next to it as `libpatch_linear.so`.

    With the option `embed_plugin` the engine contains the plugin too.

    `progress(phase, step, total)` is called from another thread; the build stops when it returns False.

    Raises PatchCompileError for a file, target, shape or plugin that the backend can't use, PlanMismatchError when the
    engine does not match `expected`, and BuildCancelledError when `progress` stopped the build. No file is left behind after
    an error or Ctrl-C.
    """
    start = time.monotonic()
    backend = load_backend(backend) if isinstance(backend, str) else backend
    engine_path.parent.mkdir(parents=True, exist_ok=True)
    job = BuildJob(backend, onnx_path, targets, profiles, plugin, options or EngineOptions())
    _check_job(job, expected)
    backend.let_parser_meet_plugins()
    if plugin is not None:
        load_plugin(backend, plugin)
    names = tuple(target.name for target in targets)
    with whole_file(engine_path) as partial:
        logged = _write(job, partial, progress)
        if backend.name == BackendName.TENSORRT:
            # The engine was just built here, so the code of a plugin inside it may run.
            programs = inspect_engine(backend, partial, names, host_code=True)
        else:
            programs = read_programs(partial)
        check_programs(programs, expected, profiles=max(1, len(profiles)), targets=names)
        nbytes = partial.stat().st_size
        beside = _copy_plugin(plugin, engine_path.parent)
        if plugin is not None and job.options.embed_plugin:
            remember_engine(partial)
    # RTX has no 2:4 tactics.
    has_tactics = backend.name == BackendName.TENSORRT and (expected.sparse_parts or logged)
    tactics = sparse_tactics(logged) if has_tactics else None
    return EngineReport(
        file=engine_path.name,
        plugin=beside.name if beside else None,
        kernels=tuple(sorted(expected.kernels)),
        backend=Library(backend.name),
        version=backend.version,
        targets=names,
        profiles=tuple(profile.name for profile in profiles),
        dtype=expected.dtype,
        patch_linears=len(expected.patch_linears),
        bytes=nbytes,
        packed_bytes=expected.packed_bytes,
        sparse_parts=len(expected.sparse_parts),
        sparse_tactics=tactics,
        seconds=round(time.monotonic() - start, 2),
        plugin_version=read_identity(plugin).version if plugin else None,
        plugin_sha256=sha256_of(plugin) if plugin else None,
        plugin_embedded=plugin is not None and job.options.embed_plugin,
        version_compatible=VERSIONS in job.options.compatible,
        hardware_compatible=HARDWARE in job.options.compatible,
    )


def _check_job(job: BuildJob, expected: PlanExpectation) -> None:
    if not job.targets:
        raise UsageError("No target is given", "An engine is built for a GPU.", "Give --target sm86.")
    job.backend.check_targets(job.targets)
    job.options.check(job.backend.name)
    if expected.patch_linears and job.plugin is None:
        raise PatchCompileError(
            "No plugin is given",
            f"{len(expected.patch_linears)} PatchLinear nodes would run as dense matrix products.",
            "Build it with `patch-compile plugin`.",
        )
    if job.plugin is not None:
        check_kernels(job.plugin, expected.kernels)


def _write(job: BuildJob, partial: Path, progress: OnBuildStep | None) -> tuple[str, ...]:
    """Write the engine to `partial`. Returns the log messages about sparsity.

    A thread builds it, so that Ctrl-C interrupts Python code and not a callback from C++. Then the build ends at its next
    step, and KeyboardInterrupt is raised again.
    """
    cancellation = Cancellation()
    with partial.open("wb") as file, ThreadPoolExecutor(1, "engine-builder") as pool:
        future = pool.submit(write_engine, job, file, progress, cancellation)
        try:
            logged = future.result()
        except KeyboardInterrupt as interrupt:
            cancellation.request(interrupt)
            raise
    if isinstance(cancellation.error, OSError):
        reason = cancellation.error.strerror or str(cancellation.error)
        raise PatchCompileError(
            f"The engine cannot be written into {partial.parent}", reason, "Make room, or choose another -o."
        )
    if cancellation.error is not None:
        raise cancellation.error
    if cancellation.requested:
        raise BuildCancelledError
    return logged


def _copy_plugin(plugin: Path | None, folder: Path) -> Path | None:
    if plugin is None:
        return None
    beside = folder / LIBRARY_NAME
    if plugin.resolve() != beside.resolve():
        with whole_file(beside) as partial:
            shutil.copyfile(plugin, partial)
    return beside
