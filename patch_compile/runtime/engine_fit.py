"""Decides if this machine can run an engine, and which plugin library the engine needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from patch_compile.engine.backend import BackendName, load_backend
from patch_compile.engine.plan_program import ANY_TARGET, PLUGIN, read_programs
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import Gpu, local_gpu
from patch_compile.out.engine import EngineReport
from patch_compile.out.layout import ENGINE_REPORT_NAME
from patch_compile.plugin.build import LIBRARY_NAME, PluginIdentity, read_identity

__all__ = ["EngineFacts", "engine_facts", "plugin_for", "why_not"]

_AMPERE = (8, 0)


@dataclass(frozen=True)
class EngineFacts:
    """Facts about an engine, from engine.json beside it, or from the engine itself if it stands alone.

    backend, version: the library that built it, version None if unknown; targets: empty if unknown or if it runs on any
    GPU; carried: the plugin embedded in it; plugin_version: version of the plugin that it was built with, None if unknown
    or without plugin.
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


def engine_facts(path: Path) -> EngineFacts:
    """Returns the facts about an engine without loading TensorRT. Raises PatchCompileError if engine.json can't be read."""
    carried, about = _carried(path), _described(path)
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
        here = "sm{}{}".format(*gpu.compute_capability)
        return f"it was built for {', '.join(facts.targets)}, and this GPU ({gpu.name}) is {here}"
    if not _is_by(facts, version):
        return f"it was built by {facts.backend} {facts.version}, and {version} is installed"
    return None


def plugin_for(facts: EngineFacts, given: Path | None) -> Path | None:
    """Returns the plugin library to register before an engine is loaded, None if the engine carries its own.

    given: library that the user named; None takes the one beside the engine. Raises PatchCompileError when the library is
    missing, when its version is not the one that the engine was built with (the message names both), and when the user
    named one for an engine that carries its own.
    """
    engine, beside = facts.path, facts.path.parent / LIBRARY_NAME
    if given is None and (facts.carried or not facts.needs_plugin):
        return None
    plugin = given or beside
    if given is None and not beside.is_file():
        built = f", version {facts.plugin_version}," if facts.plugin_version else ""
        raise PatchCompileError(
            f"{engine} needs the PatchLinear plugin{built} and there is none",
            f"None is in it, and no {LIBRARY_NAME} beside it.",
            "Name one with --plugin, or build one: `patch-compile plugin`.",
        )
    version = read_identity(plugin).version
    if facts.plugin_version not in (None, version):
        raise PatchCompileError(
            f"{plugin} is version {version} of the plugin, and {engine} was built with version {facts.plugin_version}",
            "The two may read packed weights differently.",
            "Leave --plugin out: the engine carries its own."
            if facts.carried
            else f"Name version {facts.plugin_version} with --plugin, or build the engine again.",
        )
    if facts.carried:
        raise PatchCompileError(
            f"{engine} carries its own plugin, version {version}",
            f"TensorRT takes no second one of the same name, such as {plugin}.",
            "Leave --plugin out.",
        )
    return plugin


def _is_for(facts: EngineFacts, gpu: Gpu) -> bool:
    here = "sm{}{}".format(*gpu.compute_capability)
    portable = facts.hardware_compatible and gpu.compute_capability >= _AMPERE
    return not facts.targets or here in facts.targets or portable


def _is_by(facts: EngineFacts, version: str) -> bool:
    """True if a library of this version may run the engine.

    A version-compatible engine runs with any later version of the same major, another engine with its own version only.
    """
    if facts.version in (None, version):
        return True
    built, here = (tuple(map(int, re.findall(r"\d+", text))) for text in (facts.version or "", version))
    return facts.version_compatible and built[:1] == here[:1] and here >= built


def _carried(engine: Path) -> PluginIdentity | None:
    try:
        return read_identity(engine)
    except PatchCompileError:
        return None


def _described(engine: Path) -> EngineReport | None:
    """Returns the engine.json that describes this engine, None if there is none."""
    path = engine.parent / ENGINE_REPORT_NAME
    about = EngineReport.read(path) if path.is_file() else None
    return about if about and about.file == engine.name else None
