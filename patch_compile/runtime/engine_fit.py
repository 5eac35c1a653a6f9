"""Decides if this machine can run an engine, and which compiled code may run for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.layout import ENGINE_REPORT_NAME
from patch_compile.engine.backend import BackendName, load_backend
from patch_compile.engine.plan_program import ANY_TARGET, PLUGIN, read_programs
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import Gpu, local_gpu
from patch_compile.plugin.identity import PluginIdentity, check_kernels, identity_in, read_identity
from patch_compile.plugin.kernels import KERNELS
from patch_compile.plugin.prebuilt import LIBRARY_NAME
from patch_compile.plugin.trust import engine_made_here, library_made_here, matching_library

_AMPERE = (8, 0)


@dataclass(frozen=True)
class EngineFacts:
    """Facts about an engine, from the engine.json next to it, or from the engine itself if there is no engine.json.

    backend, version: the library that built it, version None if unknown; targets: empty if unknown or if it runs on any
    GPU; carried: the plugin embedded in it; plugin_version: version of the plugin at its build, None if unknown or without
    plugin; kernels: groups of the plugin's kernels that it runs, see `plugin.kernels`, empty if unknown.
    """

    path: Path
    backend: str
    version: str | None
    targets: tuple[str, ...]
    needs_plugin: bool
    carried: PluginIdentity | None
    plugin_version: int | None
    version_compatible: bool = False
    hardware_compatible: bool = False
    kernels: tuple[str, ...] = ()


def engine_facts(path: Path) -> EngineFacts:
    """Returns the facts about an engine without loading TensorRT. Raises PatchCompileError if engine.json can't be read."""
    carried, about = identity_in(path), _described(path)
    version = carried.version if carried else None
    if about is None:
        programs = read_programs(path) if path.stat().st_size else ()
        targets = {target for program in programs for target in program.targets} - {ANY_TARGET}
        needs = any(layer.kind == PLUGIN for program in programs for layer in program.layers)
        # An engine of TensorRT-RTX contains its program text, an engine of TensorRT does not.
        backend = BackendName.TENSORRT_RTX if programs else BackendName.TENSORRT
        return EngineFacts(path, backend, None, tuple(sorted(targets)), needs, carried, version)
    return EngineFacts(
        path,
        about.backend,
        about.version,
        about.targets,
        about.patch_linears > 0,
        carried,
        about.plugin_version if version is None else version,
        about.version_compatible,
        about.hardware_compatible,
        about.kernels,
    )


def why_not(facts: EngineFacts) -> str | None:
    """Returns the reason why this machine can't run an engine; None if none is known without loading the engine."""
    gpu = local_gpu()
    if gpu is None:
        return "no GPU answers"
    try:
        version = load_backend(facts.backend).version
    except PatchCompileError as error:
        return error.why.rstrip(".")
    if not _is_for(facts, gpu):
        sm = "sm{}{}".format(*gpu.compute_capability)
        return f"it was built for {', '.join(facts.targets)}, and this GPU ({gpu.name}) is {sm}"
    if not _is_by(facts, version):
        return f"it was built by {facts.backend} {facts.version}, and {version} is installed"
    return None


@dataclass(frozen=True)
class HostCode:
    """Compiled code that may run on the CPU for an engine.

    plugin: library to register before the engine is loaded, None for an engine that needs none or carries its own;
    carried: code inside the engine may run.
    """

    plugin: Path | None = None
    carried: bool = False


def host_code(facts: EngineFacts, given: Path | None = None, *, trust: bool = False) -> HostCode:
    """Returns the code to run for an engine: only code that this installation made or that the user vouches for.

    given: a library that the user named. Without it, the cache of this installation is searched for a library that equals
    the library next to the engine, else for a library of the same backend and version that this machine's GPU runs. trust:
    run the library next to or inside the engine, whoever made it.

    Raises PatchCompileError if the code was not made here, if there is no code, if its version differs from the version that
    the engine was built with (the message names both), or if the user named a library for an engine that carries its own.
    """
    if given is None and facts.carried:
        if not (trust or engine_made_here(facts.path)):
            raise _foreign(facts, f"{facts.path} contains a plugin that was not built here")
        return HostCode(carried=True)
    if given is None and not facts.needs_plugin:
        return HostCode()
    return HostCode(_checked(facts, given or _library(facts, trust)))


def _library(facts: EngineFacts, trust: bool) -> Path:
    """Returns the library for an engine that carries no plugin."""
    beside = facts.path.parent / LIBRARY_NAME
    is_there = beside.is_file()
    if is_there and (known := library_made_here(beside) or (beside if trust else None)):
        return known
    sms = _sms(facts)
    if library := matching_library(facts.backend, facts.plugin_version, sms, facts.kernels or KERNELS):
        return library
    if is_there:
        raise _foreign(facts, f"{beside} was not built here")
    built = f", version {facts.plugin_version}," if facts.plugin_version else ""
    raise PatchCompileError(
        f"{facts.path} needs the PatchLinear plugin{built} and there is none",
        f"It contains no plugin, no {LIBRARY_NAME} is next to it, and none was built here"
        + (f" for {', '.join(f'sm{sm}' for sm in sms)}." if sms else "."),
        f"Build it: `patch-compile plugin --backend {facts.backend}`, or name a library with `plugin`.",
    )


def _sms(facts: EngineFacts) -> tuple[int, ...]:
    """Returns the compute capabilities, times ten, that code for an engine runs on: of this GPU, else of the targets."""
    if gpu := local_gpu():
        major, minor = gpu.compute_capability
        return (10 * major + minor,)
    return tuple(int(match[1]) for target in facts.targets if (match := re.fullmatch(r"sm(\d{2,3})", target)))


def _foreign(facts: EngineFacts, what: str) -> PatchCompileError:
    """Returns the error for code that came with an engine."""
    own = (
        "" if facts.carried else f"Build the plugin here: `patch-compile plugin --backend {facts.backend}`. "
    )
    return PatchCompileError(
        what,
        "A plugin is a program: loading it runs its maker's code.",
        f"{own}If you trust the maker, add `trust`.",
    )


def _checked(facts: EngineFacts, plugin: Path) -> Path:
    """Returns the plugin. Raises PatchCompileError for another version, and for an engine that carries its own."""
    version = read_identity(plugin).version
    if facts.plugin_version not in (None, version):
        raise PatchCompileError(
            f"{plugin} is version {version} of the plugin, and {facts.path} was built with version {facts.plugin_version}",
            "The two may read packed weights differently.",
            "Leave `plugin` out: the engine carries its own."
            if facts.carried
            else f"Name version {facts.plugin_version} with `plugin`, or build the engine again.",
        )
    if facts.carried:
        raise PatchCompileError(
            f"{facts.path} carries its own plugin, version {version}",
            f"TensorRT takes no second one of the same name, such as {plugin}.",
            "Leave `plugin` out.",
        )
    check_kernels(plugin, facts.kernels)
    return plugin


def _is_for(facts: EngineFacts, gpu: Gpu) -> bool:
    sm = "sm{}{}".format(*gpu.compute_capability)
    portable = facts.hardware_compatible and gpu.compute_capability >= _AMPERE
    return not facts.targets or sm in facts.targets or portable


def _is_by(facts: EngineFacts, version: str) -> bool:
    """True if a library of this version may run the engine.

    A version-compatible engine runs with any later version of the same major, another engine with its own version only.
    """
    if facts.version in (None, version):
        return True
    built, installed = (tuple(map(int, re.findall(r"\d+", text))) for text in (facts.version or "", version))
    return facts.version_compatible and built[:1] == installed[:1] and installed >= built


def _described(engine: Path) -> EngineReport | None:
    path = engine.parent / ENGINE_REPORT_NAME
    about = EngineReport.read(path) if path.is_file() else None
    return about if about and about.file == engine.name else None
