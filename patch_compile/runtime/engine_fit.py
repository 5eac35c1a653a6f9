"""Whether an engine fits this machine, which library runs it, and which plugin it takes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patch_compile.engine.backend import BackendName, load_backend
from patch_compile.engine.plan_program import ANY_TARGET, PLUGIN, read_programs
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import Gpu, local_gpu
from patch_compile.out.layout import ENGINE_REPORT_NAME
from patch_compile.plugin.build import LIBRARY_NAME, PluginIdentity, read_identity

__all__ = ["EngineFacts", "engine_facts", "plugin_for", "why_not"]

_NEEDED = {"path", "backend", "version", "targets", "patch_linears"}
_AMPERE = (8, 0)


@dataclass(frozen=True)
class EngineFacts:
    """An engine as its build describes it (engine.json beside it); one that stands alone as far as it tells itself.

    version: of the library that built it, None where that is not known, as with plugin_version, of the plugin that it
    was built with. targets: empty where they are not known, or it runs on any GPU. carried: the plugin in it.
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
    """What is known of an engine without its library. Raises PatchCompileError when engine.json is no JSON."""
    carried, about = _carried(path), _described(path)
    version = carried.version if carried else about.get("plugin_version")
    if not about:
        programs = read_programs(path) if path.stat().st_size else ()
        targets = {target for program in programs for target in program.targets} - {ANY_TARGET}
        needs = any(layer.kind == PLUGIN for program in programs for layer in program.layers)
        # An engine of TensorRT-RTX shows its program, one of TensorRT does not.
        backend = BackendName.TENSORRT_RTX if programs else BackendName.TENSORRT
        return EngineFacts(path, backend, None, tuple(sorted(targets)), needs, carried, version)
    return EngineFacts(
        path,
        about["backend"],
        about["version"],
        tuple(about["targets"]),
        about["patch_linears"] > 0,
        carried,
        version,
        about.get("version_compatible", False),
        about.get("hardware_compatible", False),
    )


def why_not(facts: EngineFacts) -> str | None:
    """Why this machine can't run an engine, in words; None where it can, as far as is known without trying."""
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
    """The library to register before an engine is loaded: none where it carries its own.

    given: the one that is asked for, else the one beside the engine is taken. Raises PatchCompileError when there is none,
    it is of another version than the engine was built with (both are named), or the engine carries one.
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
    """Whether a library may run it: of the very version, or a later one of the same major where it was built for that."""
    if facts.version in (None, version):
        return True
    built, here = (tuple(map(int, re.findall(r"\d+", text))) for text in (facts.version or "", version))
    return facts.version_compatible and built[:1] == here[:1] and here >= built


def _carried(engine: Path) -> PluginIdentity | None:
    try:
        return read_identity(engine)
    except PatchCompileError:
        return None


def _described(engine: Path) -> dict[str, Any]:
    """What the build wrote about this very engine, {} for one that stands alone."""
    path = engine.parent / ENGINE_REPORT_NAME
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PatchCompileError(f"{path} is not JSON", str(error), "Build the engine again.") from None
    known = isinstance(about, dict) and about.keys() >= _NEEDED and Path(about["path"]).name == engine.name
    return about if known else {}
