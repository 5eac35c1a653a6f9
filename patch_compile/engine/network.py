"""Builds the bytes of an engine from an ONNX file: all calls into TensorRT's builder, run in one worker thread."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from patch_compile.artifacts.engine import SparseTactics
from patch_compile.engine.backend import Backend, BackendName
from patch_compile.engine.options import EngineOptions
from patch_compile.engine.profiles import Profile
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import GpuArchitecture

if TYPE_CHECKING:
    import tensorrt

    from patch_compile.engine.backend import TensorRtApi


_READING = "Reading ONNX"

# The flag SPARSE_WEIGHTS permits 2:4 tactics. TensorRT times them against the dense tactics and keeps the faster, so a
# successful build does not show that a 2:4 tactic was chosen. It logs each selection of tactics; the last log is of the
# written engine:
#
#     (Sparsity) Found 12 layer(s) eligible to use sparse tactics: a, b, …             with or without names
#     (Sparsity) Chose 3 layer(s) using sparse tactics: a, …
#
# Source: Model Optimizer's 2:4 INT8 example (TensorRT 10.14).
_PREFIX = "(Sparsity)"
_COUNTED = re.compile(r"\(Sparsity\) (Found|Chose) (\d+) layer\(s\)")

OnBuildStep = Callable[[str, int, int], bool | None]
"""`progress(phase, step, total)` is called from the build's thread. It cancels the build by returning False (not None)."""


class Cancellation:
    """Request to stop a build, made by the user, by the callback, or by an error (kept in `error`)."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.error: BaseException | None = None

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def request(self, error: BaseException | None = None) -> None:
        """Ask the build to stop. The first of several errors is kept."""
        self.error = self.error or error
        self._requested.set()

    def ask(self, progress: OnBuildStep | None, phase: str, step: int, total: int) -> bool:
        """Report a step. Returns False if the build should stop.

        Raises nothing: C++ calls this and can't unwind, so an exception would end the process. An error of `progress`
        is kept in `error` instead.
        """
        if progress is None or self.requested:
            return not self.requested
        try:
            if progress(phase, step, total) is False:
                self.request()
        except BaseException as error:
            self.request(error)
        return not self.requested


def progress_monitor(
    trt: TensorRtApi, progress: OnBuildStep | None, cancellation: Cancellation
) -> tensorrt.IProgressMonitor:
    """Returns an IProgressMonitor that reports to `progress` and stops the build if `cancellation` is requested."""
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor
    else:
        IProgressMonitor = trt.IProgressMonitor

    class Monitor(IProgressMonitor):
        def __init__(self) -> None:
            IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self.totals[phase_name] = num_steps
            cancellation.ask(progress, phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return cancellation.ask(progress, phase_name, step + 1, self.totals.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            self.totals.pop(phase_name, None)

    return Monitor()


def sparse_tactics(messages: Iterable[str]) -> SparseTactics:
    counts = {match[1]: int(match[2]) for match in filter(None, map(_COUNTED.search, messages))}
    return SparseTactics(eligible=counts.get("Found"), chosen=counts.get("Chose"))


@dataclass(frozen=True)
class BuildJob:
    """Inputs and settings of one engine build."""

    backend: Backend
    onnx_path: Path
    targets: tuple[GpuArchitecture, ...]
    profiles: tuple[Profile, ...]
    plugin: Path | None
    options: EngineOptions = field(default_factory=EngineOptions)


def write_engine(
    job: BuildJob, out: BinaryIO, progress: OnBuildStep | None, cancellation: Cancellation
) -> tuple[str, ...]:
    """Write the engine into `out`. Returns the log messages about sparsity.

    Stops early, with an incomplete `out`, when `cancellation` is requested. Raises PatchCompileError when the file does
    not parse or the engine can't be built.
    """
    errors: list[str] = []
    sparsity: list[str] = []

    def hear(level: int, message: str) -> None:
        if level >= logging.ERROR:
            errors.append(message)
        elif _PREFIX in message:
            sparsity.append(message)

    logger = job.backend.logger
    logger.heard = hear
    try:
        _write_engine(job, out, progress, cancellation, errors)
    finally:
        logger.heard = None
    return tuple(sparsity)


def _write_engine(
    job: BuildJob, out: BinaryIO, progress: OnBuildStep | None, cancellation: Cancellation, errors: list[str]
) -> None:
    trt = job.backend.trt
    if not cancellation.ask(progress, _READING, 0, 1):
        return
    builder = trt.Builder(job.backend.logger)
    # A version that has strong typing only may lack the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, job.backend.logger)
    _parse(job, parser, errors)
    if not cancellation.ask(progress, _READING, 1, 1):
        return
    config = _config(job, builder, errors)
    config.progress_monitor = monitor = progress_monitor(trt, progress, cancellation)
    built = _serialize(trt, builder, network, config, out, cancellation)
    del monitor
    if not built and not cancellation.requested:
        raise PatchCompileError(
            f"{job.backend.name} can't build an engine from {job.onnx_path}",
            _said(errors),
            "Read TensorRT's log above.",
        )
    if built:
        job.options.keep_timings(config)


def _parse(job: BuildJob, parser: tensorrt.OnnxParser, errors: list[str]) -> None:
    if parser.parse_from_file(str(job.onnx_path.resolve())):
        return
    faults = [cast("tensorrt.ParserError", parser.get_error(i)) for i in range(parser.num_errors)]
    reasons = [f"node {e.node_name() or '?'} ({e.node_operator() or '?'}): {e.desc()}" for e in faults]
    raise PatchCompileError(
        f"{job.backend.name} can't parse {job.onnx_path}",
        "; ".join(dict.fromkeys(reasons)) or _said(errors),
        "Check the disk if the file can't be read; else stop at the ONNX file (--backend onnx), or choose another backend.",
    )


def _config(job: BuildJob, builder: tensorrt.Builder, errors: list[str]) -> tensorrt.IBuilderConfig:
    trt = job.backend.trt
    config = builder.create_builder_config()
    job.options.apply(job.backend, config)
    if job.plugin is not None and job.options.embed_plugin:
        config.plugins_to_serialize = [str(job.plugin.resolve())]
    if job.backend.builds_ahead:
        rtx: Any = config  # the stubs are of full TensorRT, which lacks these calls
        rtx.num_compute_capabilities = len(job.targets)
        for i, target in enumerate(job.targets):
            rtx.set_compute_capability(job.backend.compute_capabilities[target.tensorrt_name], i)
    if job.backend.name == BackendName.TENSORRT:
        # `inspect_engine` reads the names and types of the layers.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)  # permits its own 2:4 tactics; TensorRT times both
    for profile in job.profiles:
        _add_profile(profile, builder, config, errors, trt.Dims)
    return config


def _add_profile(
    profile: Profile,
    builder: tensorrt.Builder,
    config: tensorrt.IBuilderConfig,
    errors: list[str],
    dims: type[tensorrt.Dims],
) -> None:
    added = builder.create_optimization_profile()
    for name, shapes in profile.shapes.items():
        added.set_shape(name, *(dims(list(size)) for size in (shapes.min, shapes.opt, shapes.max)))
    if config.add_optimization_profile(added) < 0:
        raise PatchCompileError(
            f"The profile {profile.name!r} is not valid",
            _said(errors),
            "Correct --min-shapes, --opt-shapes and --max-shapes.",
        )


def _serialize(
    trt: TensorRtApi,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    out: BinaryIO,
    cancellation: Cancellation,
) -> bool:
    base: Any = trt.IStreamWriter  # Any: the stub's signature of `write` is wrong

    class Writer(base):  # type: ignore[misc]  # the base class is Any
        """Writes the engine while it is made: `build_serialized_network` would hold a whole copy in memory."""

        def __init__(self) -> None:
            base.__init__(self)

        def write(self, data: bytes) -> int:
            # RTX 1.7.1 ignores the return value of a writer. A failed write therefore cancels the build.
            try:
                if not cancellation.requested:
                    out.write(data)
            except OSError as error:
                cancellation.request(error)
            return len(data)

    writer = Writer()
    return bool(builder.build_serialized_network_to_stream(network, config, writer))


def _said(errors: Iterable[str]) -> str:
    """Joins the logged errors in their order: the first is the cause."""
    return "; ".join(dict.fromkeys(line.strip() for line in errors)) or "It logged no reason."
